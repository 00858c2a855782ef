from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from quantpipe.errors import VerificationError
from quantpipe.fetch.sanity import check_index, check_shard, check_weights

from .conftest import model_files, shard_bytes, write_files


def test_what_safetensors_writes_is_right(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors: dict[str, np.ndarray[Any, Any]] = {"a": np.ones((3, 5), np.float32), "b": np.zeros(0, np.int8)}
    save_file(tensors, path, metadata={"format": "np"})
    assert check_shard(path) == frozenset(tensors)


@pytest.mark.parametrize("change", [-1, -500, 1, 4096])
def test_wrong_length(tmp_path: Path, change: int) -> None:
    data = shard_bytes(["a", "b"], 1000)
    path = tmp_path / "x.safetensors"
    path.write_bytes(data[:change] if change < 0 else data + b"x" * change)
    with pytest.raises(VerificationError) as caught:
        check_shard(path, name="shown.safetensors")
    assert f"{len(data):,}" in str(caught.value)
    assert f"{len(data) + change:,}" in str(caught.value)
    assert caught.value.where == "shown.safetensors"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_error_and_no_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(VerificationError):
        check_shard(path)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"a": 1},
        {"a": {"data_offsets": [4]}},
        {"a": {"data_offsets": [4, 0]}},
        {"a": {"data_offsets": ["x", "y"]}},
        {"a": {}},
    ],
)
def test_wrong_headers(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(VerificationError):
        check_shard(path)


def test_huge_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 200 << 20))
        file.truncate(300 << 20)
    with pytest.raises(VerificationError, match="header"):
        check_shard(path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_wrong_index(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(VerificationError, match="index"):
        check_index(path, ["x.safetensors"])


def test_index_in_a_folder(tmp_path: Path) -> None:
    files = {f"sub/{path}": data for path, data in model_files().items()}
    write_files(tmp_path, files)
    check_weights(tmp_path, files)
    with pytest.raises(VerificationError, match="sub/model-00001"):
        check_weights(tmp_path, [path for path in files if "00001" not in path])


def test_what_cannot_be_read_is_no_damaged_source(tmp_path: Path) -> None:
    """A fault of the storage passes; what the source holds does not."""
    with pytest.raises(FileNotFoundError):
        check_shard(tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError):
        check_index(tmp_path / "model.safetensors.index.json", [])
