"""Before the first byte: can this store hold the snapshot, and does it rename and flush as a store must?"""

from __future__ import annotations

import errno
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from quantpipe import durable
from quantpipe.errors import PreflightError
from quantpipe.store.faults import storage_faults
from quantpipe.store.store import SPARE_BYTES
from quantpipe.text import human_bytes

_UNSUPPORTED = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EXDEV}


@dataclass(frozen=True)
class Space:
    """What a filesystem has left for an ordinary user.

    Attributes:
        free: bytes.
        inodes: files and folders that may still be made; None where the filesystem has no limit.
    """

    free: int
    inodes: int | None

    @classmethod
    def below(cls, path: Path) -> Space:
        """Of the filesystem that `path` is, or will be, on."""
        folder = path
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        status = os.statvfs(folder)
        return cls(status.f_bavail * status.f_frsize, status.f_favail if status.f_files else None)


def check_space(path: Path, *, missing_bytes: int, missing_files: int) -> None:
    """Refuse when the missing files do not fit. A quota counts where statvfs shows it (NFS, XFS projects).

    Args:
        path: where the snapshot is, or will be.
        missing_bytes: what is not there yet.

    Raises:
        PreflightError: too few bytes or inodes are free.
    """
    space = Space.below(path)
    if missing_bytes and space.free < missing_bytes + SPARE_BYTES:
        raise PreflightError(
            f"{human_bytes(space.free)} free, but the snapshot needs {human_bytes(missing_bytes)} more, "
            f"and {human_bytes(SPARE_BYTES)} have to stay free",
            where=str(path),
            hint="free space (`quantpipe prune` lists what may go), or set QUANTPIPE_STORE to a larger one",
        )
    # A file, its receipt, their folders and a temporary name of each.
    if space.inodes is not None and space.inodes < 4 * missing_files + 16:
        raise PreflightError(
            f"the store has {space.inodes:,} inodes free; the snapshot needs {4 * missing_files + 16:,}",
            where=str(path),
            hint="remove files from the store's filesystem, or have its limit of inodes raised",
        )


def check_writable(path: Path) -> None:
    """Whether this user may write below `path`, or make it; writes nothing.

    Raises:
        PreflightError: no.
    """
    folder = path
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PreflightError(
            "the store cannot be written",
            where=str(folder),
            hint="check the mount and the permissions, or set QUANTPIPE_STORE to another folder",
        )


def check_semantics(folder: Path) -> None:
    """Write, flush, rename over another file, flush the folder and read back, as every publish will.

    Raises:
        PreflightError: the store cannot be written, or its renames do not replace.
    """
    token = secrets.token_hex(8)
    first, second = (folder / f"{durable.TEMPORARY_PREFIX}probe-{token}-{i}" for i in (1, 2))
    with storage_faults(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            first.write_text("old", "ascii")
            second.write_text("new", "ascii")
            durable.fsync_file(second)
            second.replace(first)
            durable.fsync_directory(folder)
            replaced = first.read_text("ascii") == "new" and not second.exists()
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                raise PreflightError(
                    f"the store does not do what quantpipe needs: {error.strerror}",
                    where=str(folder),
                    hint="rename and fsync are needed: check the mount, or use another store",
                ) from error
            raise
        finally:
            for path in (first, second):
                path.unlink(missing_ok=True)
    if not replaced:
        raise PreflightError(
            "a rename in the store did not replace the file",
            where=str(folder),
            hint="the filesystem is not fit for atomic publishing: use another store",
        )
