from __future__ import annotations

from typing import Any

import pytest

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
        ({"num_hidden_layers": 4000, "num_experts": 16000}, "no real model"),
        ({"mlp_only_layers": "none"}, "mlp_only_layers"),
        ({"torch_dtype": "float32"}, "dtype"),
    ],
)
def test_configs_that_make_no_sense(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_dims({**CONFIG, **change})


def test_dims_are_frozen() -> None:
    assert isinstance(read_dims(CONFIG), Dims)
