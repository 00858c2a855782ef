"""The one way from a JSON value to a digest, and from a file to its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from quantpipe.durable import drop_cache

OnBytes = Callable[[int], object]
"""Receives, from any thread, how many more bytes were read."""

_CHUNK = 4 << 20


def digest_of(value: Any) -> str:
    """SHA-256, in hex, of the canonical JSON of `value`: sorted keys, no white space, UTF-8."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def hash_file(path: Path, on_bytes: OnBytes | None = None) -> str:
    """The SHA-256 of a file as it is on the device, in hex, read in one pass with bounded memory.

    hashlib releases the GIL, so that threads hash in parallel.
    """
    digest = hashlib.sha256()
    for chunk in read_device(path, on_bytes):
        digest.update(chunk)
    return digest.hexdigest()


def read_device(path: Path, on_bytes: OnBytes | None = None) -> Iterator[memoryview]:
    """The content of a file as it is on the device, in order; each chunk is valid until the next one."""
    buffer = memoryview(bytearray(_CHUNK))
    with path.open("rb", buffering=0) as file:
        drop_cache(file.fileno())
        while count := file.readinto(buffer):
            yield buffer[:count]
            if on_bytes is not None:
                on_bytes(count)
