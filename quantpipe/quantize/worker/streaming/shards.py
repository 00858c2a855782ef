"""Write safetensors shards: once, hashed while written, fsynced, then renamed to their name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from quantpipe import durable
from quantpipe.quantize.worker.streaming.weights import DTYPES

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 4 << 20
_MOST_VIEWS = 512
"""In one system call: IOV_MAX is 1,024."""


@dataclass(frozen=True)
class Shard:
    """A file that has been written.

    Attributes:
        name: its name in the output directory.
        size: bytes.
        sha256: in hex, of what was meant to be written.
        tensors: name -> bytes of each tensor in it.
    """

    name: str
    size: int
    sha256: str
    tensors: dict[str, int]


def header_of(tensors: Mapping[str, torch.Tensor]) -> tuple[bytes, list[str]]:
    """The bytes before the data, and the order of the tensors: widest types first, then by name.

    So every tensor is aligned to its type, as by the format's own writer.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    entries: dict[str, Any] = {}
    offset = 0
    for name in order:
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, order


def write_shard(path: Path, tensors: Mapping[str, torch.Tensor]) -> Shard:
    """Write a safetensors file so that, once it has its name, it is complete and durable.

    Args:
        tensors: on any device; each is copied to the host just before it is written.

    Raises:
        OSError: the disk is full, or the directory is gone.
    """
    header, order = header_of(tensors)
    digest, size = hashlib.sha256(), 0

    def take_in(views: list[memoryview]) -> None:
        for view in views:
            digest.update(view)  # releases the GIL, as the write does

    with (
        durable.replacing(path) as temporary,
        ThreadPoolExecutor(1) as hasher,
        temporary.open("wb", buffering=0) as file,
    ):
        for views in _pieces(header, (tensors[name] for name in order)):
            hashing = hasher.submit(take_in, views)
            size += _write(file.fileno(), views)
            hashing.result()
    sizes = {name: tensors[name].numel() * tensors[name].element_size() for name in order}
    return Shard(path.name, size, digest.hexdigest(), sizes)


def _pieces(header: bytes, tensors: Iterator[torch.Tensor]) -> Iterator[list[memoryview]]:
    """The file's bytes in pieces of many tensors each: there are thousands of small scales."""
    views, size = [memoryview(header)], len(header)
    for tensor in tensors:
        data = memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        if data:
            views.append(data)
            size += len(data)
        if size >= _PIECE or len(views) == _MOST_VIEWS:
            yield views
            views, size = [], 0
    if views:
        yield views


def _write(descriptor: int, views: list[memoryview]) -> int:
    """Write all of it; returns the number of bytes."""
    size, done = sum(len(view) for view in views), 0
    left = list(views)
    while left:
        count = os.writev(descriptor, left)
        done += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if count:
            left[0] = left[0][count:]
    assert done == size
    return size


def parts(tensors: Mapping[str, torch.Tensor], limit: int) -> list[dict[str, torch.Tensor]]:
    """Split into groups of at most `limit` bytes, in order; a tensor that is larger is a group of its own."""
    found: list[dict[str, torch.Tensor]] = []
    room = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if not found or size > room:
            found.append({})
            room = limit
        found[-1][name] = tensor
        room -= size
    return found
