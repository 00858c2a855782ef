from __future__ import annotations

from dataclasses import replace

from checkpoint.configs import CONFIG
from helpers.configs import QWEN3_235B

from quantpipe.verify.model import described_model
from verify.shapes import from_shapes


def test_counts_of_qwen3_235b() -> None:
    """The figures that are known of its shapes, in V1 and in V0 with norm biases."""
    v1 = from_shapes(QWEN3_235B)
    assert len(v1.tensors) == 110_641
    assert sum(tensor.size for tensor in v1.tensors.values()) == 237_088_352_192
    v0 = from_shapes(QWEN3_235B, v0=True)
    assert len(v0.tensors) == 111_770


def test_no_model_without_a_description_or_dimensions() -> None:
    model = from_shapes(CONFIG)
    assert described_model(model.checkpoint, "main") == replace(model, target="main")
    floats = replace(model.description, types=dict.fromkeys(model.description.types, "FLOAT"))
    for change in ({"description": None}, {"description": floats}, {"dims": None}):
        assert described_model(replace(model.checkpoint, **change), "0.23.0") is None


def test_dimensions_of_the_tensors_count() -> None:
    right = from_shapes(CONFIG)
    wrong = replace(right, config_dims=replace(right.config_dims, layers=9))
    assert wrong.seen == {"layers": 4}
    assert wrong.dims == right.dims


def test_a_disputed_module_has_no_expected_tensors() -> None:
    model = from_shapes(CONFIG)
    name = "model.layers.0.self_attn.k_proj"
    types = {**model.description.types, f"{name}.weight": "FLOAT"}
    disputed = replace(model, description=replace(model.description, types=types))
    assert disputed.disputed == {"model.layers.0.self_attn.qkv_proj"}
    assert disputed.specs_of(name) is None
    assert model.specs_of(name) is not None
