from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantpipe.checkpoint.index import parse_index, plain_name, read_index


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
