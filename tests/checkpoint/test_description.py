from __future__ import annotations

from pathlib import Path

import pytest

from quantpipe.checkpoint.description import parse_description, read_description


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


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\x80\x81")
    with pytest.raises(ValueError, match="UTF-8"):
        read_description(tmp_path / "x.json")
