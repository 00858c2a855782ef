"""The hashes that a hub lists, computed while the bytes stream through."""

from __future__ import annotations

import hashlib
from pathlib import Path

from quantpipe.checkpoint.fetched import FileHashes, TensorHasher
from quantpipe.digest import OnBytes, read_device
from quantpipe.fetch.hub import RemoteFile


class Hashes:
    """The hashes of a file, fed in order: SHA-256, also of each tensor; git's blob id where there is one."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._git = None
        if file.git_sha1 is not None and file.sha256 is None:
            self._git = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        self._tensors = TensorHasher(file.path, file.size)
        self.size = 0

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Add these bytes; without the GIL for large chunks."""
        self._sha256.update(chunk)
        self._tensors.update(chunk)
        if self._git is not None:
            self._git.update(chunk)
        self.size += len(chunk)

    def read(self, path: Path, on_bytes: OnBytes | None = None) -> None:
        """Add the whole content of a file."""
        for chunk in read_device(path, on_bytes):
            self.update(chunk)

    @property
    def sha256(self) -> str:
        """Of all bytes so far, hex."""
        return self._sha256.hexdigest()

    def content(self) -> FileHashes:
        """The hashes of the file and of its tensors, of all bytes so far."""
        return FileHashes(self.sha256, self._tensors.result())

    def mismatch(self) -> str | None:
        """How the bytes differ from what the hub lists; None where they do not."""
        file = self._file
        if self.size != file.size:
            return f"{self.size:,} bytes instead of {file.size:,}"
        if file.sha256 is not None and self.sha256 != file.sha256:
            return f"sha256 {self.sha256} instead of {file.sha256}"
        if self._git is not None and self._git.hexdigest() != file.git_sha1:
            return f"git blob id {self._git.hexdigest()} instead of {file.git_sha1}"
        return None
