"""A partial file: bytes are hashed as they arrive, and the file of a killed run is resumed.

Its name contains the file and the process that writes it, `<file id>.<owner>`, so that two processes
never write to the same name. To resume the file of a dead process, it is taken over by rename.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from quantpipe.checkpoint.fetched import FileHashes
from quantpipe.digest import OnBytes
from quantpipe.fetch.hashes import Hashes
from quantpipe.fetch.hub import RemoteFile, Stopped
from quantpipe.fetch.snapshot import Stamp
from quantpipe.store.owner import Owner

_FICLONE = 0x40049409
"""ioctl of Linux, <linux/fs.h>: share all blocks of another file."""

_CANNOT_CLONE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}


class Partial:
    """The sink of one transfer; `quantpipe.fetch.hub.Sink`.

    Args:
        folder: of partial files.
        file: the file to fetch.
        stop: set from another thread to end the transfer at its next step.
        on_landed: receives the number of bytes that the hub delivered and that are on disk.
        on_alive: receives the number of bytes that are read back for hashing.
    """

    def __init__(
        self,
        folder: Path,
        file: RemoteFile,
        *,
        stop: threading.Event,
        on_landed: OnBytes,
        on_alive: OnBytes,
    ) -> None:
        self.file = file
        self.path = folder / f"{file_id(file)}.{Owner.me().token}"
        self._stop = stop
        self._on_landed = on_landed
        self._on_alive = on_alive
        self._abort: Callable[[], object] | None = None
        self._hashes = Hashes(file)
        self._known: str | None = None
        self._descriptor = -1

    # -- what hubs use --------------------------------------------------------------------------

    @property
    def offset(self) -> int:
        """How many bytes have arrived."""
        self._check()
        return self._hashes.size

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append and hash bytes.

        Raises:
            Stopped: the transfer was stopped.
            OSError: the disk or the quota is full, say.
        """
        self._check()
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._hashes.update(chunk)
        self._on_landed(len(chunk))

    def restart(self) -> None:
        """Begin at the first byte again, in a new file: another process may still hold the old one open."""
        self._check()
        self.close()
        self.path.unlink(missing_ok=True)
        self._hashes, self._known = Hashes(self.file), None
        self._open()

    def clone(self, source: Path, sha256: str) -> bool:
        """Share the blocks of `source`, which holds what `sha256` says."""
        self.restart()
        with source.open("rb") as origin:
            try:
                fcntl.ioctl(self._descriptor, _FICLONE, origin.fileno())
            except OSError as error:
                if error.errno in _CANNOT_CLONE:
                    return False
                raise
        self._known = sha256
        self._on_alive(self.file.size)
        return True

    def on_abort(self, abort: Callable[[], object]) -> None:
        """`abort` ends a blocked read; called at once if the transfer is already stopped."""
        self._abort = abort
        if self._stop.is_set():
            self.abort()

    @property
    def size(self) -> int:
        """How many bytes of content have arrived and are hashed or cloned."""
        return self._hashes.size if self._known is None else self.path.stat().st_size

    # -- what the transfer uses -----------------------------------------------------------------

    def abort(self) -> None:
        """End a blocked read, from another thread."""
        if self._abort is not None:
            with contextlib.suppress(Exception):  # the connection may just have ended by itself
                self._abort()

    def open(self) -> None:
        """Resume a partial file of this process or of a dead one, or start one; harmless if it is open."""
        if self._descriptor >= 0:
            return
        self._hashes, self._known = Hashes(self.file), None
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            self._take_over(folder)
        if self.path.exists() and 0 < self.path.stat().st_size <= self.file.size:
            self._hashes.read(self.path, self._read_back)
        else:
            self.path.unlink(missing_ok=True)
        self._open()

    def close(self) -> None:
        """Close the file and keep it."""
        if self._descriptor >= 0:
            # Closed even where closing fails: a second time it might be another thread's file.
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def mismatch(self) -> str | None:
        """How the content differs from what the hub lists; None where it does not."""
        if self._known is None:
            return self._hashes.mismatch()
        if self.size != self.file.size:
            return f"{self.size:,} bytes instead of {self.file.size:,}"
        if self._known != self.file.sha256:
            return f"sha256 {self._known} instead of {self.file.sha256}"
        return None

    @property
    def sha256(self) -> str:
        """Of the content, hex."""
        return self._known or self._hashes.sha256

    def content(self) -> FileHashes | None:
        """The hashes of the content; None where its bytes were not read: the blocks of a clone."""
        return self._hashes.content() if self._known is None else None

    def flush(self) -> Stamp:
        """Make the content durable and read-only; the stamp that the finished file will have."""
        os.fchmod(self._descriptor, 0o444)
        os.fsync(self._descriptor)
        return Stamp.of(self.path)

    def discard(self) -> None:
        """Remove the file: its content is wrong."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _read_back(self, count: int) -> None:
        self._check()
        self._on_alive(count)

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def _take_over(self, folder: Path) -> None:
        candidates = []
        for path in folder.glob(f"{file_id(self.file)}.*"):
            with contextlib.suppress(FileNotFoundError):
                candidates.append((path.stat().st_size, path))
        for _, path in sorted(candidates, reverse=True):
            owner = Owner.from_token(path.suffix[1:])
            if owner is None or not owner.may_live():
                with contextlib.suppress(FileNotFoundError):
                    path.rename(self.path)
                    self.path.chmod(0o644)
                    return
            elif not owner.on_this_host():
                # It may still write there: a copy cannot change after it was hashed.
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(path, self.path)
                    return


def file_id(file: RemoteFile) -> str:
    """A short name for a file and the content that the hub lists."""
    what = f"{file.path}\0{file.size}\0{file.sha256}\0{file.git_sha1}"
    return hashlib.sha256(what.encode()).hexdigest()[:24]
