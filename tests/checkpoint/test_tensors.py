from __future__ import annotations

import pytest

from quantpipe.checkpoint.support import supported_types
from quantpipe.checkpoint.tensors import (
    DYNAMIC,
    FLOAT,
    OF_THE_INPUT,
    OF_THE_WEIGHT,
    SCALES,
    STATIC,
    required_tensors,
    tensor_specs,
)

STATIC_ONES = {"weight", "input_scale", "input_offset", "quant_bias", "deq_scale"}


@pytest.mark.parametrize(
    ("kind", "static_scales", "suffixes", "optional"),
    [
        (FLOAT, False, {"weight"}, set()),
        (STATIC, False, STATIC_ONES, set()),
        (STATIC, True, STATIC_ONES | {*OF_THE_WEIGHT}, set()),
        (STATIC, None, STATIC_ONES | {*OF_THE_WEIGHT}, {*OF_THE_WEIGHT}),
        ("W8A8_MIX", False, STATIC_ONES | {*OF_THE_WEIGHT}, set()),
        (DYNAMIC, False, {"weight", *OF_THE_WEIGHT}, set()),
        ("W8A16", False, {"weight", *OF_THE_WEIGHT}, set()),
    ],
)
def test_tensors_of_each_type(
    kind: str, static_scales: bool | None, suffixes: set[str], optional: set[str]
) -> None:
    found = tensor_specs((6, 4), kind, "BF16", static_scales=static_scales)
    assert found is not None
    assert found.keys() == suffixes
    assert {suffix for suffix, spec in found.items() if spec.optional} == optional
    assert found["weight"].shape == (6, 4)


def test_shapes_and_dtypes_of_a_static_linear() -> None:
    found = tensor_specs((6, 4), STATIC, "BF16", static_scales=True)
    assert found is not None
    assert {suffix: spec.shape for suffix, spec in found.items() if suffix != "weight"} == {
        "input_scale": (1,),
        "input_offset": (1,),
        "quant_bias": (6,),
        "deq_scale": (6,),
        "weight_scale": (6, 1),
        "weight_offset": (6, 1),
    }
    assert found["weight"].dtypes == {"I8"}
    assert found["deq_scale"].dtypes == {"F32"}
    half = tensor_specs((6, 4), STATIC, "F16", static_scales=True)
    assert half is not None
    assert half["deq_scale"].dtypes == {"I64"}


def test_four_bit_weights_share_bytes() -> None:
    found = tensor_specs((6, 4), "W4A8_DYNAMIC", "BF16", static_scales=False, parts=16)
    assert found is not None
    assert (found["weight"].shape, found["scale_bias"].shape) == ((3, 4), (6, 16))


def test_every_type_that_is_served_has_tensors() -> None:
    for target in ("0.13.0", "main"):
        for module_kind in ("norm", "attention", "expert"):
            for kind in supported_types(target, module_kind):
                assert tensor_specs((2, 2), kind, "BF16", static_scales=None) is not None
    assert tensor_specs((2, 2), "W3A3", "BF16", static_scales=None) is None


def test_what_a_linear_cannot_do_without() -> None:
    assert set(required_tensors(STATIC)) == STATIC_ONES
    assert set(required_tensors(DYNAMIC)) == {"weight", *OF_THE_WEIGHT}
    assert required_tensors("W3A3") == ()
    known = {*required_tensors(STATIC), *required_tensors(DYNAMIC)}
    assert known >= {*SCALES, *OF_THE_INPUT, *OF_THE_WEIGHT}
