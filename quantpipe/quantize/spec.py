"""From a recipe to msmodelslim's V1 quantization spec, and from a config.json to its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantpipe.checkpoint.names import CONFIG
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.errors import PreflightError, VerificationError

if TYPE_CHECKING:  # the worker's environment, where tests build specs, has no pydantic
    from quantpipe.recipe.quantize import Quantize

ADAPTERS = {
    "Qwen3MoeForCausalLM": "Qwen3-235B",
    "Qwen3ForCausalLM": "Qwen3-32B",
    "Qwen2ForCausalLM": "Qwen2.5-7B-Instruct",
}
"""msmodelslim's adapter by the architecture in config.json. A name covers its whole family: all sizes of
Qwen3-MoE share one adapter class, and so do all sizes of dense Qwen3, and of Qwen2 and Qwen2.5."""


_STOCK_IS_PLAIN = ("Qwen2ForCausalLM",)
"""Architectures whose own adapter in msmodelslim has no maps for rotation and smoothing; ours has them."""


def adapter_for(snapshot: Path, quantize: Quantize) -> str:
    """The name of msmodelslim's adapter for a snapshot.

    Raises:
        VerificationError: there is no readable config.json.
        PreflightError: the architecture is not supported, or not by the recipe's engine.
    """
    path = snapshot / CONFIG
    try:
        architectures = load_object(path)["architectures"]
        if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
            raise TypeError(f"`architectures` is {architectures!r:.200}, not a list of names")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VerificationError(
            f"cannot read the model's architecture: {error!r}",
            where=str(path),
            hint="the source is not a Hugging Face model directory: check source.repo in the recipe",
        ) from error
    for architecture in architectures:
        if architecture in ADAPTERS:
            if architecture in _STOCK_IS_PLAIN and quantize.engine == "stock" and _rewrites(quantize):
                raise PreflightError(
                    f"engine `stock` neither rotates nor smooths {architecture}",
                    where="quantize.engine",
                    hint="set `engine: streaming`, or `rotate: false` and no `anti_outlier`",
                )
            return ADAPTERS[architecture]
    raise PreflightError(
        f"no support for {', '.join(map(str, architectures))}",
        where=str(path),
        hint=f"supported architectures: {', '.join(ADAPTERS)}",
    )


def _rewrites(quantize: Quantize) -> bool:
    smooths = quantize.anti_outlier is not None and quantize.anti_outlier.method != "none"
    return quantize.rotate or smooths


def build_spec(quantize: Quantize, dataset: Path) -> dict[str, Any]:
    """The spec of msmodelslim's service `modelslim_v1` for a recipe's quantize section.

    Attention becomes W8A8 (static activation scale per tensor, asymmetric; weights per channel,
    symmetric), MLP and experts W8A8_DYNAMIC (activations per token); router, embedding and lm_head
    stay FLOAT. The order is the tutorial's: rotate, smooth, quantize.

    Args:
        dataset: the prompts, in msmodelslim's form.
    """
    process: list[dict[str, Any]] = []
    if quantize.rotate:
        process.append({"type": "quarot"})
    if quantize.anti_outlier is not None and quantize.anti_outlier.method != "none":
        process.append({"type": quantize.anti_outlier.method, "enable_subgraph_type": ["norm-linear"]})
    process.append({"type": "group", "configs": [_attention(), _mlp()]})
    return {
        "runner": "auto",
        "process": process,
        "save": [{"type": "ascendv1_saver", "part_file_size": quantize.part_size}],
        "dataset": str(dataset),
    }


def _linear_quant(activation: dict[str, Any], include: list[str], exclude: list[str]) -> dict[str, Any]:
    weight = {"scope": "per_channel", "dtype": "int8", "symmetric": True, "method": "minmax"}
    return {
        "type": "linear_quant",
        "qconfig": {"act": {**activation, "dtype": "int8", "method": "minmax"}, "weight": weight},
        "include": include,
        "exclude": exclude,
    }


def _attention() -> dict[str, Any]:
    return _linear_quant({"scope": "per_tensor", "symmetric": False}, ["*self_attn*"], [])


def _mlp() -> dict[str, Any]:
    return _linear_quant({"scope": "per_token", "symmetric": True}, ["*mlp*"], ["*gate"])
