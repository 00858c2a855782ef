"""The ledger of a load: which tensors have to be loaded, and which were.

vLLM does not check that a quantized model is complete: a missing scale stays at whatever memory
held, and a tensor without a parameter is dropped. So each layer, when it is built, enters here what
it needs, by the checkpoint's tensor names. When the model is built the list is complete,
and is compared with the headers of all files: every missing, duplicate, misshapen, mistyped and
unknown tensor is reported at once, before the hours that reading a large checkpoint takes. After
loading, each layer checks what it was actually given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from vllm.logger import init_logger

from quantpipe.checkpoint.safetensors import Tensor
from quantpipe.checkpoint.tensors import REAL

from .errors import CheckpointLoadError
from .weight_files import read_stored

logger = init_logger("vllm.quantpipe")

# Smoke loads look for this in the server's log: it means that layers were really built quantized.
IN_EFFECT = "quantpipe: quantization=ascend in effect (CPU rehearsal, exact int8 arithmetic)"

FLOATS = tuple(sorted(REAL))


@dataclass(frozen=True)
class Expected:
    """What the model needs of one tensor. `why` ends the sentence "expected ... because it is"."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    why: str
    required: bool = True


class LoadLedger:
    """The expected and the loaded tensors of one model in one process.

    Args:
        model_dir: the checkpoint directory.
    """

    def __init__(self, model_dir: str) -> None:
        self.model_dir = model_dir
        self.layers: Counter[str] = Counter()
        self._expected: dict[str, Expected] = {}
        self._arrived: Counter[str] = Counter()
        self._stored: frozenset[str] = frozenset()
        self._checked = False

    def expect(self, name: str, expected: Expected) -> None:
        """Enter a tensor of the whole, unsharded model, under its checkpoint name."""
        self._expected[name] = expected

    def arrive(self, name: str) -> None:
        """Note that vLLM delivered a tensor.

        Raises:
            CheckpointLoadError: the headers do not fit, or the tensor was loaded before.
        """
        self.check_files()
        self._arrived[name] += 1
        if self._arrived[name] > 1:
            raise self._error([f"{name}: loaded twice"])

    def check_files(self) -> None:
        """Compare what is expected with what the files hold, once, when the model is built.

        Raises:
            CheckpointLoadError: with every difference, each by tensor name.
        """
        if self._checked:
            return
        stored = read_stored(self.model_dir)
        problems = []
        for name, want in self._expected.items():
            problems += _compare(name, want, stored.get(name, []))
        for name in sorted(stored.keys() - self._expected.keys()):
            problems.append(f"{name}: in {stored[name][0].shard}, but the model has no parameter for it")
        if problems:
            raise self._error(problems)
        self._checked = True
        self._stored = frozenset(stored)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.layers.items()))
        logger.info(
            "%s: %s; %d tensors in %d file(s)",
            IN_EFFECT,
            counts,
            len(stored),
            len({tensor.shard for tensors in stored.values() for tensor in tensors}),
        )

    def holds(self, name: str) -> bool:
        """Whether the files hold this tensor; after `check_files`."""
        return name in self._stored

    def check_arrived(self, names: Iterable[str]) -> None:
        """Check, after loading, that a layer got the tensors that it needs.

        Raises:
            CheckpointLoadError: some required ones were not loaded, although the files may hold them.
        """
        self.check_files()
        lost = [n for n in names if self._expected[n].required and not self._arrived[n]]
        if lost:
            raise self._error([f"{name}: not loaded" for name in lost])

    def fail(self, problems: list[str]) -> None:
        """Raise `problems` of loaded values, if there are any, as one error."""
        if problems:
            raise self._error(problems)

    def _error(self, problems: list[str]) -> CheckpointLoadError:
        return CheckpointLoadError(
            f"the checkpoint does not fit the model: {len(problems)} problem{'s' * (len(problems) != 1)}",
            where=self.model_dir,
            details=problems,
            hint="`quantpipe verify` on this directory lists all findings; delete files that do not belong "
            "to the checkpoint, otherwise quantize again",
        )


def _compare(name: str, want: Expected, found: list[Tensor]) -> list[str]:
    if not found:
        return [f"{name}: missing from all files ({want.why})"] if want.required else []
    if len(found) > 1:
        return [f"{name}: duplicate, in {' and in '.join(tensor.shard for tensor in found)}"]
    (tensor,) = found
    problems = []
    if tensor.dtype not in want.dtypes:
        problems.append(
            f"{name}: {tensor.dtype} in {tensor.shard}, expected {' or '.join(want.dtypes)} ({want.why})"
        )
    if tensor.shape != want.shape:
        problems.append(
            f"{name}: shape {list(tensor.shape)} in {tensor.shard}, config.json requires {list(want.shape)}"
        )
    return problems
