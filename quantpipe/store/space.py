"""Free space of a store's filesystem, and whether it is writable: hours of work depend on both."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from quantpipe.errors import PreflightError


def existing(path: Path) -> Path:
    """`path`, or the nearest existing folder above it: `path` will be on that filesystem."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


@dataclass(frozen=True)
class Space:
    """The free space of a filesystem for an ordinary user.

    A quota counts where statvfs shows it (NFS, XFS projects).

    Attributes:
        free: bytes.
        total: bytes.
        inodes: files and folders that can still be created; None where the filesystem has no limit.
    """

    free: int
    total: int
    inodes: int | None

    @classmethod
    def below(cls, path: Path) -> Space:
        """Of the filesystem that `path` is, or will be, on."""
        status = os.statvfs(existing(path))
        free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
        return cls(free, total, status.f_favail if status.f_files else None)


def check_writable(path: Path) -> None:
    """Check that this user may write below `path`, or create it; writes nothing.

    Raises:
        PreflightError: not writable.
    """
    folder = existing(path)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PreflightError(
            "the store is not writable",
            where=str(folder),
            hint="check the mount and the permissions, or set QUANTPIPE_STORE to another folder",
        )
