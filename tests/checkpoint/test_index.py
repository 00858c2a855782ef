from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantpipe.checkpoint.index import load_index, parse_index, plain_name, read_index, shards_to_load


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


def test_the_shards_that_are_loaded(tmp_path: Path) -> None:
    """As vLLM: those of the one index that it reads; without it, every shard in the directory itself."""
    for name in ("b.safetensors", "a.safetensors", "c.bin"):
        (tmp_path / name).touch()
    (tmp_path / "optional").mkdir()
    (tmp_path / "optional" / "d.safetensors").touch()
    (tmp_path / "quant_model_weights.safetensors.index.json").write_text("{")
    assert shards_to_load(tmp_path) == ["a.safetensors", "b.safetensors"]
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"t": "z.safetensors", "u": "b.safetensors", "v": "b.safetensors"}}')
    assert shards_to_load(tmp_path) == ["b.safetensors", "z.safetensors"]
    index.write_text('{"weight_map": {"t": "../b.safetensors"}}')
    with pytest.raises(ValueError, match="shard names that are not file names"):
        shards_to_load(tmp_path)


def test_an_index_that_cannot_be_read_is_told_from_one_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_index(tmp_path / "none.json")
