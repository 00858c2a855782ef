"""What the content of a snapshot's files was when it was fetched: SHA-256 of each file and of each tensor.

    <snapshot>/.quantpipe/hashes/<path>.json     {"sha256": ..., "tensors": {name: sha256, ...} or null}

fetch computes them while the bytes stream in. Hours or days later the quantize worker compares every tensor
that it reads, so that a bit that flipped on the storage meanwhile is not quantized. The name "" stands for
the header of a safetensors file, its first 8 bytes included: a flipped bit there makes another dtype.

Standard library only: the worker imports it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpipe import durable
from quantpipe.checkpoint.names import SHARD_SUFFIX
from quantpipe.checkpoint.safetensors import PREFIX_BYTES, Tensor, header_length, parse_header
from quantpipe.checkpoint.strict_json import MAX_JSON_BYTES, load_object
from quantpipe.digest import hash_file

HEADER = ""
"""The name under which the hash of a file's header is kept: no tensor has it."""

_FOLDER = Path(".quantpipe", "hashes")

Chunk = bytes | bytearray | memoryview


@dataclass(frozen=True)
class FileHashes:
    """The hashes of one file, in hex.

    Attributes:
        sha256: of the whole file.
        tensors: by name, and of the header under `HEADER`; None for anything but an intact safetensors file.
    """

    sha256: str
    tensors: Mapping[str, str] | None = None

    def save(self, snapshot: Path, path: str) -> None:
        """Keep them, durably."""
        place = _place(snapshot, path)
        place.parent.mkdir(parents=True, exist_ok=True)
        durable.write_json(place, asdict(self))

    @classmethod
    def load(cls, snapshot: Path, path: str) -> FileHashes | None:
        """The hashes of the file `path`; None where there are none, or where they cannot be read."""
        try:
            value = load_object(_place(snapshot, path))
        except (FileNotFoundError, ValueError):
            return None
        sha256, tensors = value.get("sha256"), value.get("tensors")
        if not isinstance(sha256, str) or not (tensors is None or isinstance(tensors, dict)):
            return None
        return cls(sha256, tensors)


class ChangedError(RuntimeError):
    """A file of a snapshot is not what was fetched.

    Attributes:
        action: what to do next.
    """

    action = "`quantpipe run RECIPE --deep` hashes the snapshot and fetches again what is wrong"

    def __init__(self, path: str, what: str = "") -> None:
        super().__init__(f"{path} changed on the storage since it was fetched{what and f': {what}'}")


def require_same(snapshot: Path, paths: Iterable[str]) -> None:
    """Read files and compare them with their hashes; files without known hashes are skipped.

    Raises:
        ChangedError: one differs, or is gone.
    """
    for path in paths:
        if (hashes := FileHashes.load(snapshot, path)) is not None:
            require_content(snapshot, path, hashes)


def require_content(snapshot: Path, path: str, hashes: FileHashes) -> None:
    """Read one file and compare it with its hashes.

    Raises:
        ChangedError: it differs, or is gone.
    """
    try:
        same = hash_file(snapshot / path) == hashes.sha256
    except FileNotFoundError:
        same = False
    if not same:
        raise ChangedError(path)


def known_files(snapshot: Path) -> Iterator[tuple[str, FileHashes]]:
    """The files of a snapshot whose hashes are known, by path; leftovers of killed writes are passed over."""
    folder = snapshot / _FOLDER
    found = durable.walk(folder) if folder.is_dir() else iter(())
    places = [Path(directory, name) for directory, _, names in found for name in names]
    for place in sorted(places):
        if place.suffix != ".json" or place.name.startswith(durable.TEMPORARY_PREFIX):
            continue
        path = place.relative_to(folder).as_posix().removesuffix(".json")
        hashes = FileHashes.load(snapshot, path)
        if hashes is not None:
            yield path, hashes


def _place(snapshot: Path, path: str) -> Path:
    return snapshot / _FOLDER / f"{path}.json"


class TensorHasher:
    """Hashes the tensors of a safetensors file from a stream, in order and in chunks of any size.

    Args:
        path: the file, for its suffix: of other files there is nothing to hash.
        size: bytes of the file.
    """

    def __init__(self, path: str, size: int) -> None:
        self._size = size
        self._head: bytearray | None = bytearray() if path.endswith(SHARD_SUFFIX) else None
        self._wanted = PREFIX_BYTES
        self._waiting: Iterator[Tensor] = iter(())
        self._tensor: Tensor | None = None
        self._digest: Any = None
        self._position = 0
        self._found: dict[str, str] | None = None

    def update(self, chunk: Chunk) -> None:
        """Continue with these bytes."""
        view = memoryview(chunk)
        if self._head is not None:
            taken = min(len(view), self._wanted - len(self._head))
            self._head += view[:taken]
            self._position += taken
            view = view[taken:]
            if len(self._head) == self._wanted:
                self._read_head()
            if view:
                self.update(view)
            return
        while view and self._tensor is not None:
            taken = min(len(view), self._tensor.end - self._position)
            self._digest.update(view[:taken])
            self._position += taken
            view = view[taken:]
            self._close_finished()

    def result(self) -> dict[str, str] | None:
        """The hashes by name; None if it is not an intact safetensors file, or is not complete yet."""
        return self._found if self._tensor is None else None

    def _read_head(self) -> None:
        """After the length, wait for the JSON; after that, for the tensors."""
        head = self._head
        assert head is not None
        length = header_length(bytes(head))
        if self._wanted == PREFIX_BYTES and 0 < length <= MAX_JSON_BYTES:
            self._wanted += length
            return
        self._head = None
        header = parse_header(bytes(head[PREFIX_BYTES:]), "", self._size)
        if header.defect is None:
            self._found = {HEADER: hashlib.sha256(head).hexdigest()}
            self._waiting = iter(header.tensors)
            self._next()
            self._close_finished()

    def _next(self) -> None:
        self._tensor = next(self._waiting, None)
        self._digest = hashlib.sha256()

    def _close_finished(self) -> None:
        """Keep the hash of every tensor that ends here; empty ones end where they begin."""
        while self._tensor is not None and self._position >= self._tensor.end:
            assert self._found is not None
            self._found[self._tensor.name] = self._digest.hexdigest()
            self._next()


def header_hash(file: Path) -> str:
    """The SHA-256, in hex, of the header as it is in a file now, its first 8 bytes included."""
    with file.open("rb", buffering=0) as stream:
        prefix = stream.read(PREFIX_BYTES)
        size = min(header_length(prefix), MAX_JSON_BYTES)
        return hashlib.sha256(prefix + os.pread(stream.fileno(), size, PREFIX_BYTES)).hexdigest()
