"""The quality gates: a checkpoint that is too far from the BF16 model is never served, nor even loaded."""

from __future__ import annotations

from collections.abc import Iterator

from quantpipe.errors import QualityError
from quantpipe.recipe.quality import GATES
from quantpipe.recipe.quality import Quality as Gates
from quantpipe.stage import Context
from quantpipe.store.quality import Judged, Quality, judge

_NAMED = 3
"""Layers and linears to look at."""


def require(context: Context) -> None:
    """Compare the figures of stage quantize with the recipe's gates. Its receipt stays valid in any case.

    Raises:
        QualityError: one of them fails; it names layers and linears to look at.
    """
    found, gates = context.quantize.quality, context.recipe.quality
    if found is None:
        if gates.given():
            context.console.warning(
                "the quality gates are not judged: the checkpoint was quantized without measuring; "
                "`--force quantize` measures"
            )
        return
    if wrong := list(failures(gates, found)):
        raise QualityError(
            f"the quantized model is too far from the BF16 model: {'; '.join(wrong)}",
            where=str(context.store.absolute(found.file)),
            hint="look at the layers and linears below; other calibration prompts, rotation or smoothing may "
            "help, and a looser gate in the recipe's section `quality` accepts the checkpoint as it is",
            details=list(_places(found)),
        )


def warn(context: Context) -> None:
    """The same for a generation that is published already: nothing is done about it but a warning."""
    found = context.quantize.quality
    if found is not None and (wrong := list(failures(context.recipe.quality, found))):
        context.console.warning(
            f"the published checkpoint does not meet the recipe's quality gates: {'; '.join(wrong)}"
        )


def failures(gates: Gates, found: Quality) -> Iterator[str]:
    """The gates that fail, one sentence each."""
    for gate in judge({key: getattr(gates, key) for key in GATES}, found):
        if not gate.passed:
            yield _sentence(gate, found)


def _sentence(gate: Judged, found: Quality) -> str:
    match gate.key:
        case "max_kl":
            return f"KL divergence {gate.value:.4g} above max_kl {gate.limit:g}"
        case "min_top1":
            return f"top-1 agreement {gate.value:.4g} below min_top1 {gate.limit:g}"
        case "max_perplexity_ratio":
            return f"perplexity ratio {gate.value:.4g} above max_perplexity_ratio {gate.limit:g}"
        case _:
            layer = found.worst_layer
            number = layer.index if layer else 0
            return f"SQNR {gate.value:.3g} dB of layer {number} below min_layer_sqnr {gate.limit:g}"


def _places(found: Quality) -> Iterator[str]:
    for layer in sorted(found.layers, key=lambda layer: layer.sqnr)[:_NAMED]:
        yield (
            f"layer {layer.index}: SQNR {layer.sqnr:.3g} dB on the BF16 model's input, "
            f"{layer.path_sqnr:.3g} dB after the quantized layers before it"
        )
    for linear in found.worst_linears[:_NAMED]:
        saturated = f", {linear.saturated:.2%} of its inputs clipped" if linear.saturated else ""
        yield f"{linear.name} ({linear.type}): SQNR {linear.sqnr:.3g} dB{saturated}"
    if found.unreached_experts:
        named = ", ".join(found.unreached_experts[:_NAMED])
        yield f"experts that no calibration prompt reached: {len(found.unreached_experts)}, such as {named}"
