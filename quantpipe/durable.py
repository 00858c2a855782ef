"""Write files so that a crash, at any instant, leaves the old content or the new, never a mixture.

The order is restic's and SQLite's: write to a temporary name in the same directory, fsync the file,
rename it over the final name, fsync the directory. And read them with a limit: `read_bytes`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

TEMPORARY_PREFIX = ".tmp-"
"""Names that begin so belong to a write in flight; a sweep may remove them."""

_ATTEMPTS = 3
_PIECE = 256 << 10


def fsync_directory(directory: Path) -> None:
    """Make the renames and creations inside `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Flush the content of `path` to the device."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: Path, *, most: int) -> bytes:
    """The content of a regular file, however it changes meanwhile.

    Args:
        most: bytes; a longer file is refused.

    Raises:
        ValueError: it is a pipe, a device or a folder, or too long; a sentence without its subject.
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else the open() of a pipe waits for a writer
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is not a plain file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = b"" if found.st_size > most else read_at_most(file, most + 1)
    finally:
        os.close(descriptor)
    if max(found.st_size, len(data)) > most:
        raise ValueError(f"has {max(found.st_size, len(data)):,} bytes, more than {most:,}")
    return data


def read_at_most(file: BinaryIO, most: int) -> bytes:
    """Up to `most` bytes, in pieces: `read(most)` takes that much memory before it reads a short file."""
    pieces = []
    while most and (piece := file.read(min(most, _PIECE))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)


def drop_cache(descriptor: int) -> None:
    """Let the next reads of a file come from the device, as far as its content has been flushed.

    The page cache may be right while the device is not; a verification has to read the device.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path next to `path`; on success it becomes `path`, durably.

    On an error the temporary file is removed and `path` is as it was.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid4().hex}-{path.name}")
    try:
        yield temporary
        fsync_file(temporary)
        temporary.replace(path)
        fsync_directory(path.parent)
    finally:
        with contextlib.suppress(OSError):  # never instead of the error, nor after a rename that is done
            temporary.unlink()


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`, durably and atomically.

    Args:
        mode: permission bits, whatever the umask: readers may run under other uids.
    """
    for left in reversed(range(_ATTEMPTS)):
        try:
            with replacing(path) as temporary:
                temporary.write_bytes(data)
                temporary.chmod(mode)
            return
        except FileNotFoundError:
            # A process that held no lease against this one swept the temporary name; or the folder is gone.
            if not left or not path.parent.is_dir():
                raise


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Replace `path` by `value` as indented UTF-8 JSON, durably and atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode("utf-8"), mode=mode)


def exchange(one: Path, other: Path, aside: Path) -> None:
    """Let two directories of one filesystem swap places: `one` becomes `other`, and `other` becomes `aside`.

    Atomic where kernel and filesystem have RENAME_EXCHANGE (renameat2(2): ext4, XFS, Btrfs, tmpfs), so
    that a reader of `other` sees the old content or the new. Elsewhere (NFS) by two renames: for an instant
    there is no `other`.

    Raises:
        OSError: `other` is as it was, or, if the second of two renames failed, under its name again.
    """
    if _renameat2(one, other):
        one.rename(aside)
    else:
        other.rename(aside)
        try:
            one.rename(other)
        except OSError:
            aside.rename(other)
            raise
    for folder in {one.parent, other.parent, aside.parent}:
        fsync_directory(folder)


def try_exchange(one: Path, other: Path) -> bool:
    """Let two names swap places in one step; False, and nothing done, where that is not possible."""
    try:
        return _renameat2(one, other)
    except OSError:
        return False


_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_NOT_SUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def _renameat2(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where that is not supported."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_SUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(other))


def walk(root: Path, *, topdown: bool = True) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk(), except that a directory that cannot be listed is an error, and not passed over.

    Raises:
        OSError: of the listing.
    """

    def failed(error: OSError) -> None:
        raise error

    return os.walk(root, topdown=topdown, onerror=failed)


def fsync_tree(root: Path) -> None:
    """Flush every file and directory below `root`, deepest first."""
    for directory, _, files in walk(root, topdown=False):
        for name in files:
            fsync_file(Path(directory, name))
        fsync_directory(Path(directory))
