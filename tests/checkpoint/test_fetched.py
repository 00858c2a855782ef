"""The hashes that a fetch keeps: the same in whatever pieces the bytes come, and of the right bytes."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from quantpipe.checkpoint.fetched import (
    HEADER,
    ChangedError,
    FileHashes,
    TensorHasher,
    header_hash,
    known_files,
    require_same,
)
from quantpipe.checkpoint.safetensors import parse_header
from quantpipe.durable import TEMPORARY_PREFIX


def shard() -> bytes:
    chance = np.random.default_rng(7)
    tensors: dict[str, np.ndarray[Any, Any]] = {
        "model.layers.0.weight": chance.integers(0, 255, (7, 13), dtype=np.uint8),
        "model.layers.0.empty": np.zeros((0, 4), np.float32),
        "model.layers.1.weight": chance.standard_normal((3, 5)).astype(np.float32),
        "lm_head.weight": chance.integers(0, 9, (2,), dtype=np.int64),
    }
    return save(tensors)


RAW = shard()


def expected(raw: bytes) -> dict[str, str]:
    """From slices of the file, not from a stream."""
    length = int.from_bytes(raw[:8], "little")
    header = parse_header(raw[8 : 8 + length], "x", len(raw))
    found = {t.name: hashlib.sha256(raw[t.start : t.end]).hexdigest() for t in header.tensors}
    return {HEADER: hashlib.sha256(raw[: 8 + length]).hexdigest(), **found}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 400), max_size=40), st.randoms(use_true_random=False))
def test_the_pieces_do_not_matter(sizes: list[int], chance: random.Random) -> None:
    hasher, position = TensorHasher("a.safetensors", len(RAW)), 0
    for size in [*sizes, len(RAW)]:
        hasher.update(memoryview(RAW)[position : position + size])
        position += size
    assert hasher.result() == expected(RAW)


def test_each_byte_counts_for_its_tensor() -> None:
    before = expected(RAW)
    length = int.from_bytes(RAW[:8], "little")
    for position in range(8 + length, len(RAW)):
        changed = bytearray(RAW)
        changed[position] ^= 1
        hasher = TensorHasher("a.safetensors", len(RAW))
        hasher.update(changed)
        result = hasher.result()
        assert result is not None
        assert len([name for name in before if before[name] != result[name]]) == 1


@pytest.mark.parametrize("cut", [0, 5, 8, 30, len(RAW) - 1])
def test_a_file_that_did_not_pass_by_whole_has_none(cut: int) -> None:
    hasher = TensorHasher("a.safetensors", len(RAW))
    hasher.update(RAW[:cut])
    assert hasher.result() is None


@pytest.mark.parametrize(
    "raw", [b"\xff" * 64, b"\0" * 64, (5).to_bytes(8, "little") + b"[[[[[" + b"x" * 50, RAW + b"more"]
)
def test_what_is_no_sound_safetensors_file_has_none(raw: bytes) -> None:
    hasher = TensorHasher("a.safetensors", len(raw))
    for start in range(0, len(raw), 7):
        hasher.update(raw[start : start + 7])
    assert hasher.result() is None


def test_other_files_have_none() -> None:
    hasher = TensorHasher("tokenizer.json", len(RAW))
    hasher.update(RAW)
    assert hasher.result() is None


def test_the_header_as_it_is_now(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(RAW)
    assert header_hash(tmp_path / "a.safetensors") == expected(RAW)[HEADER]


class TestFiles:
    def test_are_kept_by_path(self, tmp_path: Path) -> None:
        hashes = {
            "a.safetensors": FileHashes("1" * 64, {"": "2" * 64, "w": "3" * 64}),
            "sub/b.json": FileHashes("4"),
        }
        for path, value in hashes.items():
            value.save(tmp_path, path)
        assert {path: FileHashes.load(tmp_path, path) for path in hashes} == hashes
        assert dict(known_files(tmp_path)) == hashes
        assert FileHashes.load(tmp_path, "other") is None

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 1}', "\0"])
    def test_what_cannot_be_read_is_not_known(self, tmp_path: Path, text: str) -> None:
        FileHashes("1").save(tmp_path, "a")
        next((tmp_path / ".quantpipe").rglob("a.json")).write_text(text)
        assert FileHashes.load(tmp_path, "a") is None

    def test_a_changed_file_is_named(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (tmp_path / name).write_text(name)
            FileHashes(hashlib.sha256(name.encode()).hexdigest()).save(tmp_path, name)
        require_same(tmp_path, ["a", "b", "of which nothing is known"])
        (tmp_path / "b").write_text("B")
        with pytest.raises(ChangedError, match="b changed on the storage since it was fetched"):
            require_same(tmp_path, ["a", "b"])
        (tmp_path / "b").unlink()
        with pytest.raises(ChangedError):
            require_same(tmp_path, ["b"])


def test_what_a_killed_write_left_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the rename: the content under the temporary name is whole."""
    known = FileHashes(hashlib.sha256(b"{}").hexdigest())
    known.save(tmp_path, "config.json")

    def killed(self: Path, target: Path) -> None:
        raise SystemExit

    monkeypatch.setattr(Path, "replace", killed)
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(SystemExit):
        known.save(tmp_path, "tokenizer_config.json")
    left = [path.name for path in tmp_path.rglob(f"{TEMPORARY_PREFIX}*")]
    assert len(left) == 1
    assert left[0].endswith("tokenizer_config.json.json")
    assert dict(known_files(tmp_path)) == {"config.json": known}


def test_the_form_on_disk(tmp_path: Path) -> None:
    FileHashes("1", {"": "2"}).save(tmp_path, "a.safetensors")
    path = tmp_path / ".quantpipe" / "hashes" / "a.safetensors.json"
    assert json.loads(path.read_text()) == {"sha256": "1", "tensors": {"": "2"}}
