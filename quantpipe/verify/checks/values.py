"""Checks of the numbers: B4 to B7, B11, B12. The bounds are defined here, with their reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import median

import numpy as np

from quantpipe.checkpoint.decode import Array
from quantpipe.checkpoint.tensors import (
    DYNAMIC,
    FOUR_BIT,
    INT8_RANGE,
    OF_THE_INPUT,
    ROUNDED,
    SCALES,
    STATIC_TYPES,
)
from quantpipe.verify.checks.needs import DEEP, NUMBERS, Known, Measured
from quantpipe.verify.checks.registry import check
from quantpipe.verify.fidelity.rotation import rotation_defects
from quantpipe.verify.finding import Defect, Severity
from quantpipe.verify.model import Model
from quantpipe.verify.values import Values

# A per-channel minmax weight of 32 inputs has 1 in 32 at its end; clipped data have far more.
_MOST_SATURATED = 0.25
_MOST_ZERO = 0.75
_SCALE_SPREAD = 256.0
_EXPERT_SPREAD = 16.0


@check(
    "B4",
    needs=DEEP,
    effect="the fused parameter holds one of each: the last one loaded wins, and the other parts get "
    "wrong inputs",
    fix="quantize again: q, k and v (gate and up) see the same input and need the same scale",
)
def fused_inputs(measured: Measured) -> Iterator[Defect]:
    """The parts of a fused static linear share input_scale and input_offset."""
    model, values = measured
    small = values.small
    groups: dict[str, list[str]] = defaultdict(list)
    for name, kind in model.types.items():
        if kind in STATIC_TYPES and (group := model.modules[name].group):
            groups[group].append(name)
    for group, names in groups.items():
        for suffix in OF_THE_INPUT:
            found = {
                n: float(small[f"{n}.{suffix}"][0]) for n in names if small.get(f"{n}.{suffix}", _NONE).size
            }
            if len(set(found.values())) > 1:
                detail = ", ".join(f"{name.rpartition('.')[2]} {value:.6g}" for name, value in found.items())
                yield Defect(group, f"the parts of a fused linear differ in {suffix}", detail)


_NONE = np.zeros(0, np.float32)


@check(
    "B5",
    needs=DEEP,
    effect="a NaN or an infinity spreads to all output; an offset of 200 becomes -56; a scale of 0 "
    "silences its channel",
    fix="quantize again; check the calibration data and the named layer",
)
def sane_numbers(measured: Measured) -> Iterator[Defect]:
    """Every value is finite, scales are positive, offsets are integers in -128..127."""
    model, values = measured
    for name, stats in values.stats.items():
        suffix = name.rpartition(".")[2]
        if stats.nonfinite:
            yield Defect(name, "a tensor has NaN or infinite values")
        elif suffix in SCALES and stats.elements and not stats.low > 0:
            if not np.isnan(stats.low):
                yield Defect(name, f"a {suffix} is not positive", f"the smallest is {stats.low:.6g}")
        elif suffix == "weight_scale" and stats.high > _SCALE_SPREAD * stats.median:
            detail = f"the largest is {stats.high / stats.median:,.0f} times the median"
            yield Defect(name, "a weight_scale has an outlier", detail, Severity.WARNING)
    for name, array in values.small.items():
        if not name.endswith(".input_offset") or values.stats[name].nonfinite:
            continue
        strange = (array != np.round(array)) | (array < INT8_RANGE[0]) | (array > INT8_RANGE[1])
        if strange.any():
            yield Defect(
                name, "an input_offset is not an integer in -128..127", f"{float(array[strange][0]):g}"
            )
    yield from _unlike_experts(model, values)


def _unlike_experts(model: Model, values: Values) -> Iterator[Defect]:
    """Experts whose scales are far from those of their neighbours: legal, but worth a look."""
    groups: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for name, module in model.modules.items():
        stats = values.stats.get(f"{name}.weight_scale")
        if module.kind == "expert" and stats is not None and stats.median > 0:
            groups[module.group, module.leaf][f"{name}.weight_scale"] = stats.median
    for members in groups.values():
        middle = median(members.values())
        for name, value in members.items():
            if not middle / _EXPERT_SPREAD <= value <= middle * _EXPERT_SPREAD:
                text = "an expert's scales are far from those of the layer's other experts"
                yield Defect(name, text, f"{value / middle:.3g} times theirs", Severity.WARNING)


@check(
    "B6",
    needs=DEEP,
    effect="static linears compute (q @ weight.T + quant_bias) * deq_scale: with a stale part all "
    "output is wrong",
    fix="quantize again: weight, scales and bias of a linear have to come from one run",
)
def identities(measured: Measured) -> Iterator[Defect]:
    """Static: deq_scale = input_scale * weight_scale; quant_bias = bias / deq_scale - row sum * offset."""
    model, values = measured
    for name, kind in model.types.items():
        if kind not in STATIC_TYPES:
            continue
        parts = {
            s: values.small.get(f"{name}.{s}")
            for s in ("input_scale", "input_offset", "deq_scale", "quant_bias")
        }
        if any(part is None or not np.isfinite(part).all() for part in parts.values()):
            continue
        scale, offset, deq, bias = (part.astype(np.float64) for part in parts.values() if part is not None)
        weight_scale = values.small.get(f"{name}.weight_scale")
        if scale.size != 1 or offset.size != 1 or not (deq > 0).all() or deq.size != bias.size:
            continue
        if weight_scale is not None and weight_scale.size == deq.size:
            product = scale * weight_scale
            if not np.allclose(product, deq, rtol=ROUNDED, atol=0):
                worst = float(np.nanmax(np.abs(product / deq - 1)))
                yield Defect(
                    f"{name}.deq_scale", "deq_scale is not input_scale * weight_scale", f"off by {worst:.1%}"
                )
        yield from _quant_bias(model, values, name, offset, deq, bias)


def _quant_bias(
    model: Model,
    values: Values,
    name: str,
    offset: Array,
    deq: Array,
    bias: Array,
) -> Iterator[Defect]:
    """The second identity; one step of rounding is allowed, and what BF16 took from the linear's bias."""
    sums = values.row_sums.get(name)
    weight = model.tensors.get(f"{name}.weight")
    if sums is None or sums.size != bias.size or weight is None or weight.shape != model.modules[name].shape:
        return
    stored = values.small.get(f"{name}.bias")
    if stored is None and (model.modules[name].bias or _smoothed_bias(model, name)):
        return  # B1 says where a bias is missing
    if stored is not None and stored.size != bias.size:
        return
    linear = np.zeros_like(bias) if stored is None else stored.astype(np.float64) / deq
    expected = linear - sums * offset
    error = np.abs(bias - expected)
    if (error > 1.0 + ROUNDED * np.abs(linear)).any():
        at = int(np.argmax(error))
        detail = f"output {at}: {bias[at]:.0f} instead of {expected[at]:.0f}"
        yield Defect(f"{name}.quant_bias", "quant_bias does not match weight, scales and bias", detail)


def _smoothed_bias(model: Model, name: str) -> bool:
    """Whether quant_bias may contain a bias that was not kept: smoothing with a norm bias makes one."""
    norm = {"attention": "input_layernorm", "mlp": "post_attention_layernorm"}.get(model.modules[name].kind)
    layer = model.modules[name].layer
    reads_norm = model.modules[name].leaf not in ("o_proj", "down_proj")
    return reads_norm and f"model.layers.{layer}.{norm}.bias" in model.tensors


@check(
    "B7",
    needs=DEEP,
    effect="vllm-ascend ignores weight_offset of symmetric types: weights made with one are misread",
    fix="quantize weights symmetrically (w_sym=True, symmetric: true)",
)
def symmetric(measured: Measured) -> Iterator[Defect]:
    """Symmetric weights have a weight_offset of 0."""
    model, stats = measured.model, measured.values.stats
    for name, kind in model.types.items():
        found = stats.get(f"{name}.weight_offset")
        if kind in (*STATIC_TYPES, DYNAMIC, FOUR_BIT) and found is not None and not found.blank:
            yield Defect(f"{name}.weight_offset", "a weight_offset is not 0")


@check(
    "B11",
    needs=NUMBERS,
    effect="a residual stream that is rotated in one place and not in another adds noise to all output",
    fix="quantize again; untie the embeddings of a tied model before it is rotated",
)
def rotation(known: Known) -> Iterator[Defect]:
    """The rotation was applied, once and everywhere, and its matrix exists and is orthogonal."""
    yield from rotation_defects(*known)


@check(
    "B12",
    needs=DEEP,
    effect="a weight that was never written, or was clipped, disables its module",
    fix="quantize again; check the scales of the named tensor",
)
def living_weights(measured: Measured) -> Iterator[Defect]:
    """No weight is all zero or mostly saturated."""
    for name, stats in measured.values.stats.items():
        if not name.endswith(".weight") or not stats.elements:
            continue
        if stats.blank:
            yield Defect(name, "a weight is all zero")
        elif stats.saturated > _MOST_SATURATED * stats.elements:
            yield Defect(
                name, "an int8 weight is saturated", f"{stats.saturated / stats.elements:.0%} at the limit"
            )
        elif stats.zeros > _MOST_ZERO * stats.elements:
            detail = f"{stats.zeros / stats.elements:.0%} zeros"
            yield Defect(name, "an int8 weight is mostly zero", detail, Severity.WARNING)
