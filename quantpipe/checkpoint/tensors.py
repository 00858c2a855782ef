"""The tensors of a module by its type: their names, dtypes and shapes, and what their values have to satisfy.

The tensors of each type are those that msmodelslim 26.1.0 writes (V1's `ascendv1` saver, V0's Calibrator)
and that vllm-ascend's schemes create parameters for. What holds between the values of a quantized linear,
as msmodelslim derives them from each other (o outputs, i inputs):

    deq_scale [o]   = input_scale [1] * weight_scale [o, 1]              up to ROUNDED
    quant_bias [o]  = round(bias / deq_scale) - input_offset [1] * row sums of weight [o, i]
    weight_offset   = 0: vllm-ascend's product ignores it
    input_offset    is a whole number in INT8_RANGE: the server casts it
    SCALES          are finite and positive
    OF_THE_INPUT    are equal in the parts of a fused linear: they see one input, and the server keeps one

Verify computes this with numpy on files, the vLLM plugin with torch on what was loaded: separate on purpose,
so that a mistake in one shows in the other. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

FLOAT = "FLOAT"
STATIC = "W8A8"
DYNAMIC = "W8A8_DYNAMIC"
MIXED = "W8A8_MIX"
WEIGHTS_ONLY = "W8A16"
FOUR_BIT = "W4A8_DYNAMIC"
"""The types, as the description names them."""

STATIC_TYPES = (STATIC, MIXED)
"""Types with an activation scale from calibration."""

SCALES = ("weight_scale", "input_scale", "deq_scale")
OF_THE_INPUT = ("input_scale", "input_offset")
OF_THE_WEIGHT = ("weight_scale", "weight_offset")

INT8_RANGE = (-128, 127)
ROUNDED = 2.0**-7
"""How far a product of two scales may be off: bf16 keeps 8 bits, so that each is off by 2**-9 at most."""

REAL = frozenset({"F32", "BF16", "F16"})


@dataclass(frozen=True, slots=True)
class Spec:
    """What a tensor has to be.

    Attributes:
        dtypes: the dtypes that load correctly.
        shape: None where any will do.
        optional: whether it may be absent.
    """

    dtypes: frozenset[str]
    shape: tuple[int, ...] | None
    optional: bool = False


@lru_cache(maxsize=1024)
def tensor_specs(
    shape: tuple[int, ...], kind: str, dtype: str, *, static_scales: bool | None, parts: int = 1
) -> dict[str, Spec] | None:
    """The tensors of a module by suffix (`weight`, `deq_scale`, ...); None where the type is not known.

    Cached: a model has thousands of modules and few shapes.

    Args:
        shape: of the weight before quantizing, (o, i) or (o,).
        kind: the type, as in the description.
        dtype: of the model, `BF16` or `F16`.
        static_scales: whether static linears keep their weight_scale and weight_offset, as in V0; None
            where they may.
        parts: in how many parts a scale_bias is summed.
    """
    if kind == FLOAT:
        return {"weight": Spec(frozenset({dtype}), shape)}
    out = shape[0]
    weight = {"weight": Spec(frozenset({"I8"}), shape)}
    scales = _scales(out)
    if kind == MIXED:
        return {**weight, **_static(out, dtype), **scales}
    if kind == STATIC:
        kept = {} if static_scales is False else _scales(out, optional=static_scales is None)
        return {**weight, **_static(out, dtype), **kept}
    if kind == DYNAMIC:
        return {**weight, **scales}
    if kind == WEIGHTS_ONLY:
        by_group = Spec(REAL, None)
        return {**weight, **dict.fromkeys(OF_THE_WEIGHT, by_group)}
    if kind == FOUR_BIT:
        return _four_bit(shape, scales, parts)
    return None


def required_tensors(kind: str) -> tuple[str, ...]:
    """The suffixes that a linear of this type cannot do without."""
    specs = tensor_specs((1, 1), kind, "BF16", static_scales=None) or {}
    return tuple(suffix for suffix, spec in specs.items() if not spec.optional)


def _scales(out: int, *, optional: bool = False) -> dict[str, Spec]:
    return dict.fromkeys(OF_THE_WEIGHT, Spec(REAL, (out, 1), optional))


def _static(out: int, dtype: str) -> dict[str, Spec]:
    return {
        "input_scale": Spec(REAL, (1,)),
        "input_offset": Spec(REAL | {"I8"}, (1,)),
        "quant_bias": Spec(frozenset({"I32"}), (out,)),
        "deq_scale": Spec(frozenset({"F32" if dtype == "BF16" else "I64"}), (out,)),
    }


def _four_bit(shape: tuple[int, ...], scales: dict[str, Spec], parts: int) -> dict[str, Spec]:
    """Two 4-bit weights of neighbouring outputs share a byte (description version 1.0.0)."""
    second = Spec(REAL, None, optional=True)
    return {
        "weight": Spec(frozenset({"I8"}), (shape[0] // 2, *shape[1:])),
        **scales,
        "scale_bias": Spec(frozenset({"F32"}), (shape[0], parts)),
        "weight_scale_second": second,
        "weight_offset_second": second,
    }
