"""Safetensors headers, parsed here: 8 bytes of little-endian length, JSON, then the tensors' bytes.

The format is https://github.com/huggingface/safetensors#format. Whatever a file holds, parsing ends in a
`Header` with its problems listed: no crash, no hang, no allocation beyond the header's own, bounded, size.

This is the only parser of headers: fetch, the quantize worker, verify and the vLLM plugin use it and raise
errors of their own. Standard library only, since the worker's and the server's environments have no more.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.checkpoint.strict_json import ABSENT, MAX_JSON_BYTES, parse_object

DTYPE_BYTES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I16": 2,
    "U16": 2,
    "F16": 2,
    "BF16": 2,
    "I32": 4,
    "U32": 4,
    "F32": 4,
    "I64": 8,
    "U64": 8,
    "F64": 8,
}
"""Bytes of one element, by the name that headers use."""

PREFIX_BYTES = 8
"""The length of the JSON precedes it."""

_MAX_RANK = 8
_MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """The location of a tensor.

    Attributes:
        shard: the file, relative to the checkpoint.
        start: its first byte, counted from the start of the file.
        end: the byte after its last.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


@dataclass(frozen=True)
class Header:
    """The content of a shard according to its header.

    Attributes:
        shard: the file, relative to the checkpoint.
        size: bytes of the file.
        tensors: in the order of their bytes; only those whose entries make sense.
        problems: what is wrong, one line each, without the file's name.
        trailing: bytes after the last tensor.
    """

    shard: str
    size: int
    tensors: tuple[Tensor, ...] = ()
    problems: tuple[str, ...] = ()
    trailing: int = 0

    @property
    def defect(self) -> str | None:
        """Why the file is not exactly its header and the header's tensors; None where it is.

        The first problem, or else that bytes follow the last tensor: a sentence without its subject.
        """
        if self.problems:
            return self.problems[0]
        if self.trailing:
            return f"has {self.size:,} bytes, its tensors end at byte {self.size - self.trailing:,}"
        return None

    @property
    def parsed(self) -> bool:
        """Whether the tensors are known, though their bytes may be damaged."""
        return bool(self.tensors) or not self.problems


def read_header(path: Path, shard: str) -> Header:
    """The header of a file, as `load_header`; that there is no such file is one of its problems.

    Raises:
        OSError: the file cannot be read now; see `strict_json.ABSENT`.
    """
    try:
        return load_header(path, shard)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return Header(shard, 0, problems=(f"cannot be read: {error.strerror}",))


def load_header(path: Path, shard: str) -> Header:
    """The header of a file. Reads 8 bytes and the header, never more.

    Args:
        shard: how the header and its tensors name the file.

    Raises:
        OSError: the file cannot be read, which says nothing about what it holds.
    """
    # A pipe would block an open(); a directory would fail it.
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        return Header(shard, 0, problems=("is not a plain file",))
    size = found.st_size
    with path.open("rb", buffering=0) as file:
        prefix = file.read(8)
        length = header_length(prefix)
        if problem := _length_problem(length, len(prefix), size):
            return Header(shard, size, problems=(problem,))
        raw = os.pread(file.fileno(), length, 8)
    if len(raw) != length:
        return Header(shard, size, problems=("shrank while being read",))
    return parse_header(raw, shard, size)


def header_length(prefix: bytes) -> int:
    """Bytes of the JSON, from the first 8 bytes of a file; nothing bounds it but the format."""
    return int.from_bytes(prefix[:PREFIX_BYTES], "little")


def _length_problem(length: int, prefix: int, size: int) -> str | None:
    if prefix < 8:
        return f"is not a safetensors file: it has {size} bytes"
    if length > size - 8:
        return f"is truncated: its header declares {length:,} bytes, the file has {size:,}"
    if length > MAX_JSON_BYTES:
        return f"declares a header of {length:,} bytes, more than {MAX_JSON_BYTES:,}"
    return None


def parse_header(raw: bytes, shard: str, size: int) -> Header:
    """The tensors in a header's JSON.

    Args:
        raw: the JSON, without the 8 bytes before it.
        size: bytes of the whole file: the tensors have to fill it.
    """
    try:
        value = parse_object(raw)
    except ValueError as error:
        return Header(shard, size, problems=(f"has a header that {error}",))
    base = 8 + len(raw)
    tensors: list[Tensor] = []
    problems: list[str] = []
    for name, entry in value.items():
        if name == "__metadata__":
            continue
        tensor = _tensor(name, entry, shard, base)
        if isinstance(tensor, Tensor):
            tensors.append(tensor)
        else:
            problems.append(tensor)
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    problems += _layout_problems(tensors, base, size)
    end = max((tensor.end for tensor in tensors), default=base)
    if len(problems) > _MAX_PROBLEMS:
        problems = [*problems[:_MAX_PROBLEMS], f"and {len(problems) - _MAX_PROBLEMS} more problems"]
    return Header(shard, size, tuple(tensors), tuple(problems), max(0, size - end))


def _tensor(name: str, entry: Any, shard: str, base: int) -> Tensor | str:
    """The tensor of one entry, or what is wrong with it."""
    label = f"tensor {name[:200]!r}"
    if not isinstance(entry, dict):
        return f"{label}: its entry is not an object"
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        return f"{label}: unknown dtype {str(dtype)[:40]!r}"
    if not _counts(shape) or len(shape) > _MAX_RANK:
        return f"{label}: its shape is not a list of at most {_MAX_RANK} sizes"
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"{label}: its data_offsets are not a byte range"
    start, end = offsets
    needed = math.prod(shape) * DTYPE_BYTES[dtype]
    if needed != end - start:
        return f"{label}: {dtype} {list(shape)} needs {needed:,} bytes, its range has {end - start:,}"
    return Tensor(name, dtype, tuple(shape), shard, base + start, base + end)


def _counts(value: Any) -> bool:
    """Whether it is a list of integers that are not negative (true is an integer to Python, not to JSON)."""
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _layout_problems(tensors: list[Tensor], base: int, size: int) -> Iterator[str]:
    """Overlaps, gaps and bytes beyond the end of the file; the tensors are sorted."""
    previous: Tensor | None = None
    position = base
    for tensor in tensors:
        if tensor.start < position and tensor.size and previous is not None:
            yield f"tensors {previous.name[:200]!r} and {tensor.name[:200]!r} overlap"
        elif tensor.start > position:
            yield f"{tensor.start - position:,} bytes before tensor {tensor.name[:200]!r} belong to no tensor"
        if tensor.end > position:
            position, previous = tensor.end, tensor
    if position > size:
        yield f"is truncated: its tensors end at byte {position:,}, the file has {size:,}"
