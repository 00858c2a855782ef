"""Faults of disks, quotas and mounts that any system call can meet, as quantpipe's errors: one table for all.

Standard library only: the quantize worker uses it in an environment without the core's dependencies.

Not in the table, because storage does not cause them: a missing or an unexpected file (ENOENT, EEXIST,
EISDIR, ENOTEMPTY), which the caller explains, and a wrong call (EINVAL, EBADF).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quantpipe.errors import PreflightError, QuantpipeError, RetryableError, StorageFullError


@dataclass(frozen=True)
class _Fault:
    """A kind of fault: its error class, what happened, and what to do."""

    error: type[QuantpipeError]
    what: str
    hint: str


_ANOTHER_STORE = "choose another store with --store"

_FULL = _Fault(
    StorageFullError,
    "the storage is full",
    "free space (`quantpipe prune` lists what can be removed) or raise the quota, then run again: "
    "finished work is kept",
)
_READ_ONLY = _Fault(
    PreflightError, "the storage is read-only", f"check the mount options, or {_ANOTHER_STORE}"
)
_REFUSED = _Fault(PreflightError, "access denied", "check the owner, the permissions and the mount options")
_AWAY = _Fault(
    RetryableError, "the storage is unreachable", "run again once the mount responds: finished work is kept"
)
_FAILED = _Fault(
    RetryableError,
    "the storage failed",
    "run again: finished work is kept; a soft NFS mount reports a timeout like this, "
    "a failing disk also shows up in `dmesg`",
)
_BUSY = _Fault(RetryableError, "the storage was busy", "run again: finished work is kept")
_UNSUPPORTED = _Fault(
    PreflightError,
    "the filesystem lacks an operation that quantpipe needs",
    f"check the mount options, or {_ANOTHER_STORE}",
)

_FAULTS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _REFUSED,
    errno.EPERM: _REFUSED,
    errno.ESTALE: _AWAY,
    errno.ETIMEDOUT: _AWAY,
    errno.ENOTCONN: _AWAY,  # a FUSE mount whose daemon died
    errno.ESHUTDOWN: _AWAY,  # a Lustre client that was evicted
    errno.EHOSTDOWN: _AWAY,
    errno.EIO: _FAILED,
    errno.EREMOTEIO: _FAILED,
    errno.EINTR: _BUSY,  # Python repeats most interrupted calls, but not mkdir, unlink and rename
    errno.EBUSY: _BUSY,
    errno.ENOLCK: _BUSY,
    errno.ENFILE: _Fault(
        RetryableError, "this host is out of file handles", "run again when it is less busy"
    ),
    errno.EMFILE: _Fault(
        PreflightError,
        "quantpipe has reached its limit of open files",
        "raise the limit (`ulimit -n 4096`), or use fewer --jobs",
    ),
    errno.EFBIG: _Fault(
        PreflightError,
        "the file would exceed the size limit",
        f"raise the limit (`ulimit -f unlimited`), or {_ANOTHER_STORE}, on a filesystem for large files",
    ),
    errno.ENAMETOOLONG: _Fault(
        PreflightError,
        "a name or path is too long for the filesystem",
        f"{_ANOTHER_STORE}, with a shorter path",
    ),
    errno.ENOTDIR: _Fault(
        PreflightError,
        "a component of the path is not a directory",
        f"move it out of the way, or {_ANOTHER_STORE}",
    ),
    errno.ELOOP: _Fault(PreflightError, "symbolic links form a loop", "correct the links on this path"),
    errno.EXDEV: _Fault(
        PreflightError,
        "the store spans more than one filesystem",
        "sources, runs and models of a store must be on one filesystem (and in one quota project "
        f"or ZFS dataset): {_ANOTHER_STORE}, or move the whole store",
    ),
    errno.EOPNOTSUPP: _UNSUPPORTED,
    errno.ENOSYS: _UNSUPPORTED,
    errno.EMLINK: _UNSUPPORTED,
}


def is_storage_fault(number: int | None) -> bool:
    """Whether an errno is one that storage causes."""
    return number in _FAULTS


def storage_error(error: OSError, where: Path | str) -> QuantpipeError | None:
    """The error for a fault of the storage; None where the storage is not the cause.

    Args:
        where: the path in use, for calls that do not name their file (a write to a descriptor).
    """
    fault = None if error.errno is None else _FAULTS.get(error.errno)
    if error.errno is None or fault is None:
        return None
    return fault.error(
        f"{fault.what}: {os.strerror(error.errno)}", where=_place(error) or str(where), hint=fault.hint
    )


@contextlib.contextmanager
def storage_faults(where: Path | str) -> Iterator[None]:
    """Raise the faults of the storage as errors that say so, with the file that they hit.

    Args:
        where: as for `storage_error`.

    Raises:
        StorageFullError: no space, or no quota.
        PreflightError: it is not accessible, or lacks an operation.
        RetryableError: it was unreachable for a while.
    """
    try:
        yield
    except OSError as error:
        explained = storage_error(error, where)
        if explained is None:
            raise
        raise explained from error


def _place(error: OSError) -> str:
    """The file of an error, or the two of a rename or link."""
    return " -> ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if name)
