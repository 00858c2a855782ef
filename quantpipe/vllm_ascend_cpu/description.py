"""quant_model_description.json: which type each layer has.

The file maps `<tensor name>` to `<TYPE>`; a layer's type is that of its `.weight`. vLLM fuses
q, k and v (and gate and up) into one layer: all parts must then have one type. vllm-ascend looks
at experts.0 only and computes garbage where another expert differs; here every expert counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from quantpipe.checkpoint.modules import EXPERT_PARTS, FUSED
from quantpipe.checkpoint.names import DESCRIPTION
from quantpipe.checkpoint.strict_json import read_object
from quantpipe.checkpoint.tensors import DYNAMIC, FLOAT, STATIC

from .errors import CheckpointLoadError


def part_names(prefix: str) -> tuple[str, ...]:
    """The checkpoint's layers that make up vLLM's layer `prefix`: itself, or the parts that it fuses."""
    parent, _, leaf = prefix.rpartition(".")
    if leaf in FUSED:
        return tuple(f"{parent}.{part}" for part in FUSED[leaf])
    return (prefix,)


def expert_names(prefix: str, num_experts: int) -> tuple[str, ...]:
    """The checkpoint's layers that make up the fused experts `prefix` (`model.layers.0.mlp.experts`)."""
    return tuple(f"{prefix}.{expert}.{part}" for expert in range(num_experts) for part in EXPERT_PARTS)


class Description:
    """The description of one checkpoint.

    Args:
        path: the file, for messages.
        entries: its contents.

    Raises:
        CheckpointLoadError: it requires a quantized attention or KV cache, which is not rehearsed.
    """

    def __init__(self, path: Path, entries: dict[str, object]) -> None:
        self.path = path
        self.entries = entries
        # vllm-ascend acts on the presence of fa_quant_type, whatever its value.
        asked = [key for key in ("fa_quant_type",) if key in entries]
        asked += [key for key in ("kv_cache_type",) if entries.get(key)]
        if asked:
            raise CheckpointLoadError(
                "quantized attention and KV caches are not rehearsed",
                where=f"{path}, key {', '.join(asked)}",
                hint="if the value is null, delete the key: vllm-ascend treats its presence as enabled",
            )

    @classmethod
    def read(cls, model_dir: str) -> Description:
        """Read the description of the checkpoint directory.

        Raises:
            CheckpointLoadError: no directory, no such file, or not a JSON object.
        """
        path = Path(model_dir) / DESCRIPTION
        if not path.is_file():
            found = sorted(p.name for p in Path(model_dir).glob("*.json"))
            raise CheckpointLoadError(
                f"--quantization ascend needs {DESCRIPTION}, which is missing",
                where=model_dir,
                hint="pass a local directory that msmodelslim wrote, or omit --quantization for a "
                f"model that is not quantized; JSON files there: {', '.join(found) or 'none'}",
            )
        try:
            return cls(path, read_object(path))
        except ValueError as error:
            raise CheckpointLoadError(
                f"the description {error}", where=str(path), hint="quantize again"
            ) from error

    @property
    def has_norm_bias(self) -> bool:
        """Whether RMSNorms have biases (anti-outlier m4): vllm-ascend's own test for it."""
        return any("norm.bias" in name for name in self.entries)

    def linear_type(self, prefix: str) -> str:
        """FLOAT, W8A8 or W8A8_DYNAMIC: the one type of vLLM's linear layer `prefix`.

        Raises:
            CheckpointLoadError: a key is missing, the parts differ, or the type is not rehearsed.
        """
        return self._one_type(prefix, part_names(prefix), (FLOAT, STATIC, DYNAMIC))

    def experts_type(self, prefix: str, num_experts: int) -> str:
        """FLOAT or W8A8_DYNAMIC: the one type of all experts of `prefix`.

        Raises:
            CheckpointLoadError: as `linear_type`.
        """
        return self._one_type(prefix, expert_names(prefix, num_experts), (FLOAT, DYNAMIC))

    def embedding_type(self, prefix: str) -> str:
        """FLOAT: embeddings and lm_head are never quantized.

        Raises:
            CheckpointLoadError: as `linear_type`.
        """
        return self._one_type(prefix, (prefix,), (FLOAT,))

    def _one_type(self, prefix: str, layers: Iterable[str], supported: tuple[str, ...]) -> str:
        types = {f"{layer}.weight": self.entries.get(f"{layer}.weight") for layer in layers}
        missing = [name for name, type_ in types.items() if type_ is None]
        if missing:
            raise CheckpointLoadError(
                f"{prefix}: {len(missing)} of {len(types)} keys are missing",
                where=str(self.path),
                details=[f"{name}: no such key" for name in missing],
                hint="the description is incomplete or of another model than config.json: quantize again",
            )
        if len(set(types.values())) > 1:
            raise CheckpointLoadError(
                f"{prefix}: the parts that vLLM fuses have different types",
                where=str(self.path),
                details=_differing(types),
                hint="give all parts of a fused layer, and all experts of a layer, one type in the recipe",
            )
        (type_,) = set(types.values())
        if type_ not in supported:
            raise CheckpointLoadError(
                f"{prefix}: type {type_} is not rehearsed here, only {', '.join(supported)}",
                where=f"{self.path}, key {next(iter(types))}",
                hint="use one of these types in the recipe, or smoke-load on an NPU",
            )
        return str(type_)


def _differing(types: dict[str, object]) -> list[str]:
    """The first name of each type: enough to see the difference among hundreds of experts."""
    first = {type_: name for name, type_ in reversed(types.items())}
    return [f"{name}: {type_}" for type_, name in first.items()]
