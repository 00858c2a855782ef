from __future__ import annotations

from typing import Any

import pytest
from helpers.configs import QWEN3_235B

from quantpipe.checkpoint.dims import read_dims
from quantpipe.checkpoint.layout import Layout, device_bytes, indivisible, layout_of_serve
from quantpipe.recipe.serve import Serve


@pytest.mark.parametrize("tp", [1, 2, 4, 8, 16, 32, 64])
def test_tp_that_divides_64_heads_and_4_kv_heads(tp: int) -> None:
    assert list(indivisible(read_dims(QWEN3_235B), Layout(tp=tp, ep=True))) == []


@pytest.mark.parametrize(
    ("layout", "change", "words"),
    [
        (Layout(tp=3, ep=True), {}, "attention heads"),
        (Layout(tp=6, ep=True), {"num_attention_heads": 60}, "replicated evenly"),
        (Layout(tp=4, ep=True), {"num_key_value_heads": 6}, "KV heads are not divisible"),
        (Layout(tp=64), {"moe_intermediate_size": 1504}, "expert parallel is off"),
        (Layout(tp=8, dp=4, ep=True, redundant_experts=8), {}, "EPLB"),
        (Layout(tp=64, dp=4, ep=True), {}, "fewer experts"),
        (Layout(tp=8, ep=True), {"mlp_only_layers": [0], "intermediate_size": 12287}, "MLP width"),
    ],
)
def test_rules(layout: Layout, change: dict[str, Any], words: str) -> None:
    problems = list(indivisible(read_dims({**QWEN3_235B, **change}), layout))
    assert any(words in text for text, _ in problems), problems


def test_eplb_that_divides() -> None:
    dims = read_dims(QWEN3_235B)
    assert list(indivisible(dims, Layout(tp=8, dp=4, ep=True, redundant_experts=32))) == []


def test_serve_profile() -> None:
    serve = Serve(
        tensor_parallel_size=4,
        data_parallel_size=4,
        enable_expert_parallel=True,
        max_model_len=40960,
        gpu_memory_utilization=0.8,
        additional_config={"enable_fused_mc2": 1, "eplb_config": {"num_redundant_experts": 16}},
    )
    layout = layout_of_serve(serve, device_memory=None)
    assert (layout.tp, layout.dp, layout.ep, layout.devices) == (4, 4, True, 16)
    assert (layout.utilization, layout.max_model_len) == (0.8, 40960)
    assert (layout.redundant_experts, layout.fused_mc2) == (16, True)


def test_bytes_of_one_device() -> None:
    """Eight ranks of the 235B model: 29.6 GB each; experts are 227 of 237 GB, and all devices share them."""
    dims, size = read_dims(QWEN3_235B), 237_101_554_144
    experts = 94 * 128 * 3 * 1536 * 4096
    assert dims.expert_weights == experts
    assert device_bytes(dims, Layout(tp=8, ep=True), size) == pytest.approx(size / 8)
    for ep in (False, True):
        found = device_bytes(dims, Layout(tp=4, dp=4, ep=ep), size)
        assert found == pytest.approx(experts / 16 + (size - experts) / 4)
    assert device_bytes(None, Layout(tp=4, dp=4), size) == pytest.approx(size / 4)
    assert device_bytes(dims, Layout(dp=2), 1000) == 500
