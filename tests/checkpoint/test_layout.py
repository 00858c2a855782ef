from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.configs import QWEN3_235B

from checkpoint.configs import CONFIG
from quantpipe.checkpoint.checkpoint import Checkpoint
from quantpipe.checkpoint.description import Description
from quantpipe.checkpoint.dims import read_dims
from quantpipe.checkpoint.layout import GIB, Layout, estimate, layout_of_serve, rank_bytes, rule_problems
from quantpipe.checkpoint.modules import modules, specs
from quantpipe.checkpoint.safetensors import DTYPE_BYTES, Header, Tensor
from quantpipe.recipe.model import Serve


def from_shapes(config: dict[str, Any], *, v0: bool = False) -> Checkpoint:
    """A W8A8-rot checkpoint with all tensors of a config, without a file."""
    dims = read_dims(config)
    tensors = []
    types = {}
    for module in modules(dims):
        kind = {"attention": "W8A8", "expert": "W8A8_DYNAMIC"}.get(module.kind, "FLOAT")
        for suffix, spec in (specs(module, kind, dims.dtype, static_scales=v0) or {}).items():
            name, dtype = f"{module.name}.{suffix}", "F32" if "F32" in spec.dtypes else min(spec.dtypes)
            size = math.prod(spec.shape or ()) * DTYPE_BYTES[dtype]
            tensors.append(Tensor(name, dtype, spec.shape or (), "s", 0, size))
            types[name] = kind
        if v0 and module.kind == "norm":
            tensors.append(Tensor(f"{module.name}.bias", "F32", module.shape, "s", 0, 4 * module.out))
    header = Header("s", 0, tuple(tensors))
    return Checkpoint(Path("x"), (), (header,), (), Description(types), "", config, "", dims, "0.23.0")


def test_counts_of_qwen3_235b() -> None:
    """The figures that are known of its shapes, in V1 and in V0 with norm biases."""
    v1 = from_shapes(QWEN3_235B)
    assert len(v1.tensors) == 110_641
    assert sum(tensor.size for tensor in v1.tensors.values()) == 237_088_352_192
    v0 = from_shapes(QWEN3_235B, v0=True)
    assert len(v0.tensors) == 111_770


@pytest.mark.parametrize("tp", [1, 2, 4, 8, 16, 32, 64])
def test_tp_that_divides_64_heads_and_4_kv_heads(tp: int) -> None:
    assert list(rule_problems(read_dims(QWEN3_235B), Layout(tp=tp, ep=True))) == []


@pytest.mark.parametrize(
    ("layout", "change", "words"),
    [
        (Layout(tp=3, ep=True), {}, "attention heads"),
        (Layout(tp=6, ep=True), {"num_attention_heads": 60}, "replicated evenly"),
        (Layout(tp=4, ep=True), {"num_key_value_heads": 6}, "KV heads cannot be divided"),
        (Layout(tp=64), {"moe_intermediate_size": 1504}, "without expert parallel"),
        (Layout(tp=8, dp=4, ep=True, redundant_experts=8), {}, "EPLB"),
        (Layout(tp=64, dp=4, ep=True), {}, "fewer experts"),
        (Layout(tp=8, ep=True), {"mlp_only_layers": [0], "intermediate_size": 12287}, "width of the MLP"),
    ],
)
def test_rules(layout: Layout, change: dict[str, Any], words: str) -> None:
    problems = list(rule_problems(read_dims({**QWEN3_235B, **change}), layout))
    assert any(words in text for text, _ in problems), problems


def test_eplb_that_divides() -> None:
    dims = read_dims(QWEN3_235B)
    assert list(rule_problems(dims, Layout(tp=8, dp=4, ep=True, redundant_experts=32))) == []


def test_ranks_hold_everything_once_apart_from_replicas() -> None:
    checkpoint = from_shapes(QWEN3_235B)
    total = sum(tensor.size for tensor in checkpoint.tensors.values())
    assert rank_bytes(checkpoint, Layout()) == [total]
    each = rank_bytes(checkpoint, Layout(tp=4, ep=True))
    assert len(set(each)) == 1
    dims = checkpoint.dims
    replicated = sum(
        tensor.size
        for name, tensor in checkpoint.tensors.items()
        if "norm" in name
        or name.endswith("mlp.gate.weight")
        or ("o_proj." in name and not name.endswith(".weight"))
    )
    assert sum(each) == pytest.approx(total + 3 * replicated, rel=1e-8)
    # At tp 8 each of the 4 KV heads is held twice.
    kv = sum(t.size for n, t in checkpoint.tensors.items() if ".k_proj." in n or ".v_proj." in n)
    eight = sum(rank_bytes(checkpoint, Layout(tp=8, ep=True)))
    assert eight == pytest.approx(total + 7 * replicated + kv, rel=1e-8)
    assert dims.kv_heads == 4


def test_row_parallel_scales_stay_whole_without_expert_parallel() -> None:
    checkpoint = from_shapes(CONFIG)
    one, two = rank_bytes(checkpoint, Layout())[0], rank_bytes(checkpoint, Layout(dp=2))[0]
    experts = [(n, t.size) for n, t in checkpoint.tensors.items() if ".experts." in n]
    cut = sum(size for name, size in experts if not ("down_proj" in name and "weight_" in name))
    assert one - two == cut // 2


def test_experts_are_placed_contiguously() -> None:
    checkpoint = from_shapes({**CONFIG, "num_experts": 10})
    sizes = rank_bytes(checkpoint, Layout(tp=2, dp=2, ep=True))
    assert sizes[0] == sizes[1] > sizes[2] == sizes[3]
    more = rank_bytes(checkpoint, Layout(tp=2, dp=2, ep=True, redundant_experts=2))
    assert more[2] == sizes[0]


def test_tutorial_layout_fits_and_smaller_devices_do_not() -> None:
    """tp 8 with expert parallel on 64 GB devices is what is served; 32 GB cannot hold 29 GB of weights."""
    checkpoint = from_shapes(QWEN3_235B)
    layout = Layout(
        tp=8, ep=True, device_memory=64 * GIB, utilization=0.95, max_model_len=131072, max_num_seqs=32
    )
    memory = estimate(checkpoint, layout)
    assert memory.verdict == "fits"
    assert 29e9 < memory.weights < 31e9
    assert memory.kv_per_token == 2 * 94 * 1 * 128 * 2
    small = estimate(checkpoint, replace(layout, device_memory=32 * GIB))
    assert small.verdict == "not"
    assert small.kv_tokens < 0
    assert estimate(checkpoint, replace(layout, max_model_len=memory.kv_tokens)).verdict == "tight"
    sixteen = estimate(checkpoint, replace(layout, dp=2, device_memory=32 * GIB))
    assert sixteen.verdict == "fits"


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
