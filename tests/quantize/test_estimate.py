from __future__ import annotations

from typing import Any

import pytest
from helpers.configs import QWEN3_235B, QWEN25_7B

from quantpipe.quantize.estimate import estimate

HOW: dict[str, Any] = {"prompts": 50, "datasets": 2, "rotate": True, "smooth": True, "npu": True}


def test_the_bytes_of_qwen3_235b_are_those_of_its_files() -> None:
    """470 GB of bf16 in, 237 GB out: the sizes on the hubs."""
    found = estimate(QWEN3_235B, **HOW)
    assert found is not None
    assert found.read_bytes == pytest.approx(470e9, rel=0.005)
    assert found.written_bytes == pytest.approx(237e9, rel=0.01)
    assert found.linears == 94 * (4 + 3 * 128)
    assert 4 * found.layer_bytes < found.memory_bytes < 25e9


def test_what_a_later_run_resumes_from_is_on_the_disk_too() -> None:
    """94 layers: the boundaries of 11 units stay, two more exist at once; each of 25,000 tokens in bf16."""
    found = estimate(QWEN3_235B, **HOW)
    assert found is not None
    assert found.boundary_bytes == 13 * 2 * 25_000 * 4096


def test_the_bytes_of_qwen25_7b_are_those_of_its_recipe() -> None:
    """15 GB in, 9 GB out."""
    found = estimate(QWEN25_7B, **HOW)
    assert found is not None
    assert found.read_bytes == pytest.approx(2 * 7_615_616_512, rel=0.001)
    assert found.written_bytes == pytest.approx(8.7e9, rel=0.01)


@pytest.mark.parametrize(
    "less",
    [{"rotate": False}, {"smooth": False}, {"datasets": 1}, {"prompts": 10}],
    ids=lambda less: str(less),
)
def test_less_to_do_is_fewer_operations(less: dict[str, Any]) -> None:
    all_of_it, part = estimate(QWEN3_235B, **HOW), estimate(QWEN3_235B, **{**HOW, **less})
    assert all_of_it is not None
    assert part is not None
    assert part.operations < all_of_it.operations
    assert part.seconds < all_of_it.seconds


def test_a_config_without_sizes_gives_no_estimate() -> None:
    assert estimate({"hidden_size": 64}, **HOW) is None
    assert estimate({**QWEN3_235B, "vocab_size": "many"}, **HOW) is None


def test_a_dense_model_has_three_linears_beside_attention() -> None:
    dense = {**QWEN3_235B, "num_experts": 0, "intermediate_size": 25600, "num_hidden_layers": 64}
    found = estimate(dense, **HOW)
    assert found is not None
    assert found.linears == 64 * 7


def test_layers_without_experts_are_counted_as_such() -> None:
    """Every second layer dense: half the experts' bytes, and the dense MLP's instead."""
    half = estimate({**QWEN3_235B, "decoder_sparse_step": 2}, **HOW)
    whole = estimate(QWEN3_235B, **HOW)
    assert half is not None
    assert whole is not None
    assert half.linears == 94 * 4 + 47 * 3 * 128 + 47 * 3
    experts, mlp = 128 * (3 * 4096 * 1536 + 4096), 3 * 4096 * 12288
    assert whole.read_bytes - half.read_bytes == 2 * 47 * (experts - mlp)
    assert half.layer_bytes == whole.layer_bytes


def test_measuring_takes_another_layer_of_memory_and_some_products() -> None:
    plain, measured = estimate(QWEN3_235B, **HOW), estimate(QWEN3_235B, **HOW, held_out=16)
    assert plain is not None
    assert measured is not None
    assert measured.memory_bytes == plain.memory_bytes + plain.layer_bytes
    assert 1 < measured.operations / plain.operations < 1.15
