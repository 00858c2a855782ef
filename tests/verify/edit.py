"""Edit checkpoints at the level of bytes, so that any defect can be planted."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"F32": "<f4", "I32": "<i4", "I8": "i1", "I64": "<i8", "F16": "<f2"}


@dataclass
class Stored:
    """A tensor as a shard holds it."""

    dtype: str
    shape: tuple[int, ...]
    raw: bytes

    @property
    def array(self) -> np.ndarray[Any, Any]:
        """Its values; BF16 as float32."""
        if self.dtype == "BF16":
            wide = np.frombuffer(self.raw, "<u2").astype(np.uint32) << 16
            values: np.ndarray[Any, Any] = wide.view(np.float32)
        else:
            values = np.frombuffer(self.raw, DTYPES[self.dtype])
        copy: np.ndarray[Any, Any] = values.reshape(self.shape).copy()
        return copy


def stored(array: Any, dtype: str) -> Stored:
    """Values as a stored tensor; BF16 is truncated."""
    array = np.asarray(array)
    if dtype == "BF16":
        raw = (array.astype("<f4").view(np.uint32) >> 16).astype("<u2").tobytes()
    else:
        raw = array.astype(DTYPES[dtype]).tobytes()
    return Stored(dtype, array.shape, raw)


Tensors = dict[str, Stored]


def read(path: Path) -> Tensors:
    """All tensors of a shard."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    base = 8 + length
    return {
        name: Stored(
            e["dtype"], tuple(e["shape"]), data[base + e["data_offsets"][0] : base + e["data_offsets"][1]]
        )
        for name, e in header.items()
    }


def write(path: Path, tensors: Tensors) -> None:
    """A shard with these tensors."""
    header: dict[str, Any] = {}
    position = 0
    for name, tensor in tensors.items():
        end = position + len(tensor.raw)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    write_raw(path, json.dumps(header).encode(), b"".join(tensor.raw for tensor in tensors.values()))


def write_raw(path: Path, header: bytes, data: bytes = b"", *, length: int | None = None) -> None:
    """A file with this header, true or not."""
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + data)


def shard_of(checkpoint: Path) -> Path:
    """The one shard of a small checkpoint."""
    (shard,) = checkpoint.glob("*.safetensors")
    return shard


@contextlib.contextmanager
def tensors(checkpoint: Path) -> Iterator[Tensors]:
    """The tensors of the one shard; changes are written back, and its index is kept true."""
    shard = shard_of(checkpoint)
    content = read(shard)
    yield content
    write(shard, content)
    for index in checkpoint.glob("*.index.json"):
        value = json.loads(index.read_text())
        value["weight_map"] = dict.fromkeys(content, shard.name)
        index.write_text(json.dumps(value))


@contextlib.contextmanager
def json_file(path: Path) -> Iterator[Any]:
    """The value of a JSON file; changes are written back."""
    value = json.loads(path.read_text())
    yield value
    path.write_text(json.dumps(value, indent=2))


def description(checkpoint: Path) -> contextlib.AbstractContextManager[Any]:
    """The description, to be edited."""
    return json_file(checkpoint / "quant_model_description.json")


def config(checkpoint: Path) -> contextlib.AbstractContextManager[Any]:
    """config.json, to be edited."""
    return json_file(checkpoint / "config.json")


def change(checkpoint: Path, name: str, edit: Callable[[Any], Any], dtype: str | None = None) -> None:
    """Replace a tensor's values by `edit` of them."""
    with tensors(checkpoint) as content:
        old = content[name]
        content[name] = stored(edit(old.array), dtype or old.dtype)


def remove(checkpoint: Path, *names: str) -> None:
    """Take tensors out of the shard, not out of the description."""
    with tensors(checkpoint) as content:
        for name in names:
            del content[name]


def remove_everywhere(checkpoint: Path, prefix: str) -> None:
    """Take all tensors and keys with a prefix out of shard and description."""
    with tensors(checkpoint) as content, description(checkpoint) as keys:
        for name in [name for name in content if name.startswith(prefix)]:
            del content[name]
        for name in [name for name in keys if name.startswith(prefix)]:
            del keys[name]
