"""JSON of any content: what reads it raises ValueError at most."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from checkpoint.configs import CONFIG
from quantpipe.checkpoint.description import parse_description
from quantpipe.checkpoint.dims import read_dims
from quantpipe.checkpoint.index import parse_index, plain_name
from quantpipe.checkpoint.strict_json import MAX_DEPTH, MAX_ITEMS, load, parse, parse_object, read_object

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


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match="plain file"):
        read_object(tmp_path / "folder.json")


DEEP = "0"
for _ in range(MAX_DEPTH + 1):
    DEEP = '{"some key that is long enough": ' + DEEP + "}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1e999]", "too large"),
        ("[-1e400]", "too large"),
        ("[NaN]", "NaN"),
        (f"[{'9' * 21}]", "21 digits"),
        ('{"a": 1, "a": 2}', "twice"),
        (DEEP, "nested too deeply"),
        ("[" * 100_000, "brackets"),
        (f"[0{',0' * (MAX_ITEMS + 1)}]", "more than 1,048,576 items"),
        (r'["\ud800"]', "surrogate"),
        ("\ufeff[]", "not JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_values_that_break_who_reads_them(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(text.encode())


def test_values_that_are_right() -> None:
    assert parse(rb'[1.5e308, "\ud83d\ude00", {"a": [[[0]]]}]') == [1.5e308, "\U0001f600", {"a": [[[0]]]}]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", Path("/dev/zero")):
        with pytest.raises(ValueError, match="plain file"):
            load(path)


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
