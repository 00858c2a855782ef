from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantpipe.digest import digest_of, hash_file

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_it_is_the_sha256_of_the_compact_sorted_json() -> None:
    assert digest_of({"b": [1, "é"], "a": None}) == (
        hashlib.sha256('{"a":null,"b":[1,"é"]}'.encode()).hexdigest()
    )


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text(), VALUES, min_size=2))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert digest_of(dict(reversed(value.items()))) == digest_of(value)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(), min_size=2, unique=True))
def test_the_order_of_items_does(value: list[int]) -> None:
    assert digest_of(value[::-1]) != digest_of(value)


def test_a_file_is_hashed_in_chunks_that_are_reported(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000  # more than one chunk
    (tmp_path / "a").write_bytes(content)
    counts: list[int] = []
    assert hash_file(tmp_path / "a", counts.append) == hashlib.sha256(content).hexdigest()
    assert len(counts) == 2
    assert sum(counts) == len(content)
