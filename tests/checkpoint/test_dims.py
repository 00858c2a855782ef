from __future__ import annotations

from typing import Any

import pytest
from helpers.configs import QWEN3_235B

from checkpoint.configs import CONFIG
from quantpipe.checkpoint.dims import Dims, read_dims


def test_dims() -> None:
    dims = read_dims({**CONFIG, "decoder_sparse_step": 2, "mlp_only_layers": [1]})
    assert (dims.hidden, dims.head_dim, dims.experts, dims.dtype) == (64, 16, 8, "BF16")
    assert [dims.sparse(layer) for layer in range(4)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llama"}, "model_type"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"hidden_size": True}, "hidden_size is 'True'"),
        ({"num_experts": -1}, "num_experts"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"num_hidden_layers": 4000, "num_experts": 16000}, "not a plausible model"),
        ({"mlp_only_layers": "none"}, "mlp_only_layers"),
        ({"torch_dtype": "float32"}, "dtype"),
    ],
)
def test_configs_that_make_no_sense(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_dims({**CONFIG, **change})


def test_recorded_config() -> None:
    dims = read_dims(QWEN3_235B)
    assert (dims.layers, dims.sparse_layers, dims.experts, dims.active_experts) == (94, 94, 128, 8)
    assert read_dims(QWEN3_235B, partial=True) == dims


@pytest.mark.parametrize(
    ("model_type", "change", "head_dim", "kv_heads"),
    [
        ("qwen3", {}, 128, 32),
        ("qwen3_moe", {}, 16, 4),
        ("qwen2", {}, 16, 32),
        ("qwen2", {"head_dim": None, "num_key_value_heads": None}, 16, 64),
        ("qwen3", {"head_dim": None, "num_key_value_heads": None}, 16, 64),
        ("qwen3_moe", {"head_dim": None, "num_key_value_heads": None}, 16, 64),
        ("qwen3", {"head_dim": 8, "num_key_value_heads": 2}, 8, 2),
    ],
)
@pytest.mark.parametrize("partial", [False, True])
def test_what_stands_for_an_absent_size(
    model_type: str, change: dict[str, Any], head_dim: int, kv_heads: int, partial: bool
) -> None:
    """As transformers' configuration classes fill it in, and vLLM what they leave null."""
    config = {**CONFIG, "model_type": model_type, "hidden_size": 1024, "num_attention_heads": 64}
    del config["num_key_value_heads"]
    dims = read_dims({**config, **change}, partial=partial)
    assert (dims.head_dim, dims.kv_heads) == (head_dim, kv_heads)


@pytest.mark.parametrize(
    ("model_type", "attention_bias", "biased", "head_norms"),
    [
        ("qwen2", False, {"q_proj", "k_proj", "v_proj"}, False),
        ("qwen3", False, set(), True),
        ("qwen3", True, {"q_proj", "k_proj", "v_proj", "o_proj"}, True),
    ],
)
def test_biases_and_norms_of_the_families(
    model_type: str, attention_bias: bool, biased: set[str], head_norms: bool
) -> None:
    dims = read_dims({**CONFIG, "model_type": model_type, "attention_bias": attention_bias})
    assert (set(dims.biased), dims.head_norms, dims.experts) == (biased, head_norms, 0)


def test_partial_takes_what_is_there() -> None:
    dims = read_dims({"num_attention_heads": 64, "num_experts": "x", "mlp_only_layers": 3}, partial=True)
    assert (dims.heads, dims.kv_heads, dims.experts, dims.hidden) == (64, 64, 0, 0)
    assert (dims.dense_layers, dims.max_positions, dims.sparse_layers) == (frozenset(), 0, 0)


def test_partial_reads_the_experts_of_transformers_5() -> None:
    dims = read_dims({"num_local_experts": 8, "num_hidden_layers": 2}, partial=True)
    assert (dims.experts, dims.sparse_layers) == (8, 2)


def test_partial_never_raises() -> None:
    values: tuple[object, ...] = (None, -1, 10**40, "x", [1, "x"], {}, 1.5, True)
    for value in values:
        read_dims(dict.fromkeys([*QWEN3_235B, "dtype", "num_local_experts"], value), partial=True)


def test_dims_are_frozen() -> None:
    assert isinstance(read_dims(CONFIG), Dims)
