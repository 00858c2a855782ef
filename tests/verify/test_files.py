"""Index, description and config: what they mean, and that whatever they hold raises ValueError at most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantpipe.checkpoint.description import parse_description, read_description
from quantpipe.checkpoint.dims import read_dims
from quantpipe.checkpoint.index import parse_index, plain_name, read_index
from quantpipe.checkpoint.strict_json import parse_object, read_object

CONFIG = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "intermediate_size": 128,
}

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**60), 2**60),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
OBJECT = st.dictionaries(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from([*CONFIG, "weight_map", "optional", "a.weight", "dtype", "mlp_only_layers"]),
    ),
    JSON,
    max_size=6,
)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "", ".", "..", "a\x00b", "a\nb", "..\\..", "x\u202eb"]
)
def test_names_that_leave_the_directory(name: str) -> None:
    assert not plain_name(name) or name == "..\\.."
    index = parse_index("i", {"weight_map": {"t": name, "u": "ok.safetensors"}})
    assert index.shards <= {"ok.safetensors", "..\\.."}


@pytest.mark.parametrize("value", [{}, {"weight_map": []}, {"weight_map": "x"}])
def test_no_index(value: dict[str, Any]) -> None:
    assert parse_index("i", value).problems == ("has no weight_map",)


def test_missing_and_broken_files_are_problems(tmp_path: Path) -> None:
    assert read_index(tmp_path / "none.json").problems
    (tmp_path / "x.json").write_bytes(b"\x80\x81")
    assert "UTF-8" in read_index(tmp_path / "x.json").problems[0]
    with pytest.raises(ValueError, match="UTF-8"):
        read_description(tmp_path / "x.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match="plain file"):
        read_object(tmp_path / "folder.json")


def test_description() -> None:
    found = parse_description(
        {
            "version": "1.0.0",
            "model_quant_type": "W8A8",
            "group_size": 0,
            "a.weight": "W8A8",
            "b.weight": "FLOAT",
            "b.bias": 7,
            "fa_quant_type": None,
            "c.weight": None,
            "optional": {"quarot": {"rotation_map": {"global_rotation": "optional/q.safetensors"}}},
        }
    )
    assert found.types == {"a.weight": "W8A8", "b.weight": "FLOAT"}
    assert found.nulls == ("fa_quant_type", "c.weight")
    assert found.strange == ("b.bias",)
    assert found.rotation_path == "optional/q.safetensors"
    assert (found.type_of("a"), found.type_of("z")) == ("W8A8", None)
    assert found.quantized


def test_description_of_floats_only() -> None:
    assert not parse_description({"a.weight": "FLOAT"}).quantized
    assert parse_description({"optional": {"quarot": []}}).rotation_path is None


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


@settings(max_examples=200, deadline=2000)
@given(value=OBJECT)
def test_fuzzed_objects_raise_value_errors_at_most(value: dict[str, Any]) -> None:
    parsed = parse_object(json.dumps(value).encode())
    assert parsed == json.loads(json.dumps(value))
    index = parse_index("i", parsed)
    assert all(plain_name(shard) for shard in index.shards)
    found = parse_description(parsed)
    assert len(found.types) + len(found.settings) + len(found.nulls) + len(found.strange) == len(parsed)
    found.rotation_path  # noqa: B018  (whatever `optional` holds, asking is harmless)
    try:
        read_dims({**CONFIG, **parsed})
    except ValueError as error:
        assert str(error)


@settings(max_examples=200, deadline=2000)
@given(raw=st.binary(max_size=200))
def test_fuzzed_bytes_raise_value_errors_at_most(raw: bytes) -> None:
    try:
        assert isinstance(parse_object(raw), dict)
    except ValueError as error:
        assert str(error)
