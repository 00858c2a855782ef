"""Free space and semantics of a store's filesystem: checked before hours of work depend on them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from quantpipe import durable
from quantpipe.errors import PreflightError
from quantpipe.store.faults import storage_error


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


def check_semantics(folder: Path) -> None:
    """Try what every publish depends on: rename over a file, of a directory and over a link, and fsync.

    Args:
        folder: where to try; created if it is missing.

    Raises:
        StorageFullError, RetryableError: the trial met a fault of the storage.
        PreflightError: the store is not writable, or lacks one of these operations.
    """
    trial = folder / f"{durable.TEMPORARY_PREFIX}trial-{secrets.token_hex(8)}"
    try:
        trial.mkdir(parents=True)
        wrong = _tried(trial)
    except OSError as error:
        raise _refused(error, folder) from error
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    if wrong:
        raise PreflightError(
            wrong,
            where=str(folder),
            hint="the filesystem does not support atomic publishing: use another one",
        )


def check_store(root: Path) -> None:
    """`check_semantics` of a whole store, which leaves no folder that was not there. Raises as it does."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        check_semantics(root)
    finally:
        # Never a tree: a run that began meanwhile may have put hours of work into it.
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()


def _tried(folder: Path) -> str | None:
    """Try all operations; returns what went wrong without an error."""
    file, directory, link = folder / "file", folder / "directory", folder / "link"
    durable.write_bytes(file, b"old")
    durable.write_bytes(file, b"new")
    if file.read_bytes() != b"new":
        return "a rename in the store did not replace the file"
    directory.mkdir()
    directory.rename(folder / "renamed")
    for target in ("one", "two"):
        (folder / "new-link").symlink_to(target)
        (folder / "new-link").replace(link)
    if str(link.readlink()) != "two":
        return "a rename in the store did not replace the link"
    durable.fsync_directory(folder)
    return None


def _refused(error: OSError, folder: Path) -> Exception:
    """The fault without the names of the trial, which mean nothing to users."""
    words = error.strerror or str(error)
    found = None if error.errno is None else storage_error(OSError(error.errno, words), folder)
    return found or PreflightError(
        f"the filesystem lacks an operation that quantpipe needs: {words}",
        where=str(folder),
        hint="rename, symbolic links and fsync are needed: check the mount options, or use another store",
    )
