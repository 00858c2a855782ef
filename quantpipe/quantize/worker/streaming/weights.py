"""Read tensors of a snapshot's safetensors files by name; nothing is mapped, so that memory is bounded."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from quantpipe.checkpoint import safetensors
from quantpipe.checkpoint.fetched import HEADER, ChangedError, FileHashes, header_hash
from quantpipe.checkpoint.index import shards_to_load
from quantpipe.checkpoint.names import INDEX
from quantpipe.quantize.worker.streaming.memory import PagePool

DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Location:
    """Where a tensor lies: file, first byte, number of bytes, and what the bytes are.

    Attributes:
        sha256: of the bytes when they were fetched, in hex; None where it is not known.
    """

    file: Path
    offset: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    sha256: str | None = None


class SnapshotError(RuntimeError):
    """The snapshot lacks a tensor, or a file of it is not what its header says.

    Attributes:
        action: what to do next.
    """

    action = "fetch the snapshot again: `quantpipe run RECIPE --force fetch`"


def read_header(file: Path, hashes: Mapping[str, str] | None = None) -> dict[str, Location]:
    """The tensors of one safetensors file.

    Args:
        hashes: what `FileHashes.tensors` was when the file was fetched: what is read is compared with them.

    Raises:
        SnapshotError: it is not a whole safetensors file, or has a dtype that is not supported here.
        ChangedError: the header is not the one that was fetched.
    """
    known = hashes or {}
    if HEADER in known and header_hash(file) != known[HEADER]:
        raise ChangedError(file.name, "its header")
    header = safetensors.load_header(file, file.name)
    if header.defect is not None:
        raise SnapshotError(f"{file.name} {header.defect}")
    return {tensor.name: _location(file, tensor, known.get(tensor.name)) for tensor in header.tensors}


def _location(file: Path, tensor: safetensors.Tensor, sha256: str | None) -> Location:
    if tensor.dtype not in DTYPES:
        raise SnapshotError(f"{tensor.name} in {file.name} has the unsupported type {tensor.dtype}")
    return Location(file, tensor.start, tensor.size, DTYPES[tensor.dtype], tensor.shape, sha256)


class Weights:
    """Tensors on disk, by name. Reading is thread-safe."""

    def __init__(self, locations: Mapping[str, Location]) -> None:
        self._locations = dict(locations)

    @classmethod
    def of_snapshot(cls, snapshot: Path) -> Weights:
        """The tensors of the files that the index names, or of all *.safetensors where there is none.

        What is read is compared with the hashes of the fetch, where the snapshot has them.

        Raises:
            SnapshotError: a file is missing or damaged.
            ChangedError: a header is not the one that was fetched.
        """
        found: dict[str, Location] = {}
        for file in _files(snapshot):
            hashes = FileHashes.load(snapshot, file.name)
            found.update(read_header(file, None if hashes is None else hashes.tensors))
        return cls(found)

    def names(self, prefix: str) -> list[str]:
        """The tensors whose names begin with `prefix`, in the order in which they lie on disk."""
        found = [name for name in self._locations if name.startswith(prefix)]
        return sorted(found, key=lambda n: (self._locations[n].file, self._locations[n].offset))

    def read_prefix(
        self, prefix: str, allocate: Callable[[int], np.ndarray] | None = None
    ) -> dict[str, torch.Tensor]:
        """All tensors below `prefix`, by their names without it, in memory that they share.

        Args:
            allocate: gives writable memory of at least so many bytes; new memory each time where left out.

        Raises:
            SnapshotError: a file got shorter.
            ChangedError: a tensor is not what was fetched.
        """
        places = [(name, self._locations[name]) for name in self.names(prefix)]
        begins = [0, *itertools.accumulate(_aligned(place.size) for _, place in places)]
        memory = (allocate or PagePool().take)(begins[-1])
        values, found = torch.from_numpy(memory), {}
        for (name, place), begin in zip(places, begins, strict=False):
            piece = slice(begin, begin + place.size)
            _read(name, place, memory[piece].data)
            found[name.removeprefix(prefix)] = values[piece].view(place.dtype).view(place.shape)
        return found


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


def _read(name: str, place: Location, into: memoryview) -> None:
    descriptor = os.open(place.file, os.O_RDONLY)
    try:
        done = 0
        while done < place.size:
            count = os.preadv(descriptor, [into[done:]], place.offset + done)
            if not count:
                raise SnapshotError(f"{place.file.name} ends within {name}")
            done += count
    finally:
        os.close(descriptor)
    if place.sha256 is not None and hashlib.sha256(into).hexdigest() != place.sha256:
        raise ChangedError(place.file.name, f"tensor {name}")


def _files(snapshot: Path) -> list[Path]:
    try:
        shards = shards_to_load(snapshot)
    except ValueError as error:
        raise SnapshotError(f"{INDEX} {error}") from error
    missing = [shard for shard in shards if not (snapshot / shard).is_file()]
    if missing:
        raise SnapshotError(f"the index names {missing[0]}, which is not there")
    return [snapshot / shard for shard in shards]
