"""The files of a model directory: whatever they hold, their problems are listed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint.configs import CONFIG
from hypothesis import strategies as st

from quantpipe.checkpoint.description import read_description
from quantpipe.checkpoint.dims import read_dims
from quantpipe.checkpoint.fetched import FileHashes, TensorHasher, header_hash
from quantpipe.checkpoint.index import load_index, shards_to_load
from quantpipe.checkpoint.safetensors import load_header
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.fetch import sanity
from quantpipe.quantize.estimate import estimate
from quantpipe.quantize.spec import adapter_for
from quantpipe.recipe.files import Prompts
from quantpipe.recipe.quantize import Quantize
from quantpipe.smoke.model import ModelFigures, read_model

from .harness import edited, ends, fuzz, json_texts

HEADER = {
    "__metadata__": {"format": "pt"},
    "a.weight": {"dtype": "I8", "shape": [4, 8], "data_offsets": [0, 32]},
    "a.bias": {"dtype": "F32", "shape": [4], "data_offsets": [32, 48]},
    "empty": {"dtype": "BF16", "shape": [0], "data_offsets": [48, 48]},
}
INDEX = {
    "metadata": {"total_size": 48},
    "weight_map": {"a.weight": "model.safetensors", "a.bias": "model-00001-of-00002.safetensors"},
}
DESCRIPTION = {
    "model_quant_type": "W8A8_DYNAMIC",
    "version": "1.0.0",
    "a.weight": "W8A8",
    "b.weight": "FLOAT",
    "optional": {"quarot": {"rotation_map": {"global_rotation": "optional/quarot.safetensors"}}},
}
QUANTIZE = Quantize.model_validate({"calibration": {"dataset": Prompts(Path("unused"), ("unused",))}})
HASHES = {"sha256": "ab" * 32, "tensors": {"": "cd" * 32, "a.weight": "ef" * 32}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


def shard(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(48)


def hashed(data: bytes, path: Path) -> None:
    hasher = TensorHasher("model.safetensors", len(data))
    for start in range(0, len(data), 17):
        hasher.update(data[start : start + 17])
    hasher.result()
    header_hash(path)


SHARDS = st.one_of(json_texts(HEADER).map(shard), edited([shard(json.dumps(HEADER).encode())]))


@fuzz(SHARDS)
def test_headers(folder: Path, data: bytes) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    header = ends(lambda: load_header(path, "model.safetensors"))
    assert header is not None
    assert all(0 <= tensor.start <= tensor.end for tensor in header.tensors)
    assert header.problems or sum(tensor.size for tensor in header.tensors) <= len(data)
    ends(lambda: sanity.check_shard(path))
    ends(lambda: hashed(data, path))


@fuzz(json_texts(INDEX))
def test_indexes(folder: Path, data: bytes) -> None:
    path = folder / "model.safetensors.index.json"
    path.write_bytes(data)
    index = ends(lambda: load_index(path))
    assert index is not None and (index.problems or index.weight_map is not None)
    ends(lambda: sanity.check_index(path, ["model.safetensors"]))
    ends(lambda: shards_to_load(folder), also=(ValueError,))


@fuzz(json_texts(DESCRIPTION))
def test_descriptions(folder: Path, data: bytes) -> None:
    path = folder / "quant_model_description.json"
    path.write_bytes(data)
    found = ends(lambda: read_description(path), also=(ValueError,))
    if found is not None:
        found.rotation_path  # noqa: B018  (whatever it holds, asking is harmless)


def of_config(folder: Path, data: bytes) -> list[Callable[[], Any]]:
    config = folder / "config.json"
    config.write_bytes(data)

    def estimated() -> Any:
        return estimate(load_object(config), prompts=8, datasets=2, rotate=True, smooth=True, npu=True)

    return [
        lambda: read_dims(load_object(config)),
        lambda: read_dims(load_object(config), partial=True),
        estimated,
        lambda: ModelFigures.of(load_object(config), 1),
        lambda: read_model(folder),
        lambda: adapter_for(folder, QUANTIZE),
    ]


@fuzz(
    json_texts(
        {
            **CONFIG,
            "architectures": ["Qwen3MoeForCausalLM"],
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
        }
    )
)
def test_configs(folder: Path, data: bytes) -> None:
    for call in of_config(folder, data):
        ends(call, also=(ValueError,))


@fuzz(json_texts(HASHES))
def test_hashes_of_the_fetch(folder: Path, data: bytes) -> None:
    place = folder / ".quantpipe" / "hashes" / "a.safetensors.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    found = ends(lambda: FileHashes.load(folder, "a.safetensors"))
    assert found is None or isinstance(found.sha256, str)
