from __future__ import annotations

from dataclasses import replace

import pytest
from checkpoint.configs import CONFIG
from helpers.configs import QWEN3_235B

from quantpipe.checkpoint.layout import GIB, Layout, device_bytes
from quantpipe.verify.memory import estimate, rank_bytes
from quantpipe.verify.model import Model
from verify.shapes import from_shapes


@pytest.fixture(scope="module")
def full_size() -> Model:
    """All 110,641 tensors of Qwen3-235B-A22B."""
    return from_shapes(QWEN3_235B)


def test_ranks_hold_everything_once_apart_from_replicas(full_size: Model) -> None:
    model = full_size
    total = sum(tensor.size for tensor in model.tensors.values())
    assert rank_bytes(model, Layout()) == [total]
    each = rank_bytes(model, Layout(tp=4, ep=True))
    assert len(set(each)) == 1
    dims = model.dims
    replicated = sum(
        tensor.size
        for name, tensor in model.tensors.items()
        if "norm" in name
        or name.endswith("mlp.gate.weight")
        or ("o_proj." in name and not name.endswith(".weight"))
    )
    assert sum(each) == pytest.approx(total + 3 * replicated, rel=1e-8)
    # At tp 8 each of the 4 KV heads is held twice.
    kv = sum(t.size for n, t in model.tensors.items() if ".k_proj." in n or ".v_proj." in n)
    eight = sum(rank_bytes(model, Layout(tp=8, ep=True)))
    assert eight == pytest.approx(total + 7 * replicated + kv, rel=1e-8)
    assert dims.kv_heads == 4


def test_row_parallel_scales_stay_whole_without_expert_parallel() -> None:
    model = from_shapes(CONFIG)
    one, two = rank_bytes(model, Layout())[0], rank_bytes(model, Layout(dp=2))[0]
    experts = [(n, t.size) for n, t in model.tensors.items() if ".experts." in n]
    cut = sum(size for name, size in experts if not ("down_proj" in name and "weight_" in name))
    assert one - two == cut // 2


def test_experts_are_placed_contiguously() -> None:
    model = from_shapes({**CONFIG, "num_experts": 10})
    sizes = rank_bytes(model, Layout(tp=2, dp=2, ep=True))
    assert sizes[0] == sizes[1] > sizes[2] == sizes[3]
    more = rank_bytes(model, Layout(tp=2, dp=2, ep=True, redundant_experts=2))
    assert more[2] == sizes[0]


def test_tutorial_layout_fits_and_smaller_devices_do_not(full_size: Model) -> None:
    """tp 8 with expert parallel on 64 GB devices is what is served; 32 GB cannot hold 29 GB of weights."""
    model = full_size
    layout = Layout(tp=8, ep=True, utilization=0.95, max_model_len=131072, max_num_seqs=32)
    memory = estimate(model, layout, 64 * GIB)
    assert memory.verdict == "fits"
    assert 29e9 < memory.weights < 31e9
    assert memory.kv_per_token == 2 * 94 * 1 * 128 * 2
    small = estimate(model, layout, 32 * GIB)
    assert small.verdict == "not"
    assert small.kv_tokens < 0
    assert estimate(model, replace(layout, max_model_len=memory.kv_tokens), 64 * GIB).verdict == "tight"
    sixteen = estimate(model, replace(layout, dp=2), 32 * GIB)
    assert sixteen.verdict == "fits"


@pytest.mark.parametrize(
    ("tp", "dp", "ep"), [(1, 1, False), (8, 1, True), (4, 4, True), (4, 4, False), (2, 8, True)]
)
def test_the_tensors_bear_out_what_was_planned(full_size: Model, tp: int, dp: int, ep: bool) -> None:
    """What the smoke rules assume of a planned model is what its tensors then show."""
    model, layout = full_size, Layout(tp=tp, dp=dp, ep=ep)
    total = sum(tensor.size for tensor in model.tensors.values())
    planned = device_bytes(model.dims, layout, total)
    assert max(rank_bytes(model, layout)) == pytest.approx(planned, rel=0.02)
