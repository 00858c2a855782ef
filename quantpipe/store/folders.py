"""Folders of the store: who may write in them, and whether servers can pass through them.

Servers run under other uids, and other users of a shared store are not trusted with what is published. So a
folder gets its mode when it is made, whatever the umask, and keeps the group that a setgid store hands down.
A folder that is there already is somebody's decision: it is never changed, only reported (`closed`).
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from pathlib import Path

from quantpipe import durable
from quantpipe.errors import PreflightError

_READABLE = 0o755
_PRIVATE = 0o700
_GROUP_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_readable(folder: Path, *, parents: bool = True) -> None:
    """Make a folder: this user may write, everybody may read.

    Args:
        parents: make those above it that are missing, too.

    Raises:
        FileNotFoundError: the one above it is missing, and is not to be made.
    """
    for missing in _missing(folder) if parents else [folder]:
        _make(missing, _READABLE)


def make_own(folder: Path) -> None:
    """Make a folder in which only this user may write; who may read, the umask says."""
    if not folder.is_dir():
        folder.mkdir(mode=_READABLE, exist_ok=True)


def make_private(folder: Path) -> None:
    """Make a folder that is this user's alone, also where an earlier version made it for others as well."""
    folder.mkdir(mode=_PRIVATE, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & ~stat.S_ISGID != _PRIVATE:
        folder.chmod(_PRIVATE)


def make_shared(folder: Path) -> None:
    """Make a folder that is as writable as the one above it.

    Where a group shares the store, its members can add to the folder, but not rename or remove what another
    member has in it: it gets the sticky bit, as /tmp has.
    """
    if folder.is_dir():
        return
    writers = stat.S_IMODE(folder.parent.stat().st_mode) & _GROUP_MAY_WRITE
    _make(folder, _READABLE | writers | (stat.S_ISVTX if writers else 0))


def require_folder(path: Path) -> None:
    """Check that a path is a folder, or can become one: nothing else has its name.

    Raises:
        PreflightError: a link leads nowhere, such as to a mount that is away.
        OSError: a file is in the way, links form a loop, the name is too long, ...
    """
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            raise _in_the_way(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise _in_the_way(path) from None


def closed(folder: Path, *, below: Path = Path("/")) -> list[Path]:
    """The folders on the way to `folder` that other users cannot pass through, outermost first.

    Args:
        below: begin with this one; the root of the filesystem for the whole way.
    """
    way = [path for path in (*reversed(folder.parents), folder) if path == below or below in path.parents]
    return [path for path in way if path.is_dir() and not path.stat().st_mode & stat.S_IXOTH]


def how_to_open(found: list[Path]) -> tuple[str, str]:
    """What `closed` found, and the command that opens it: for people."""
    modes = ", ".join(f"{path} has mode {stat.S_IMODE(path.stat().st_mode):04o}" for path in found)
    return modes, f"chmod o+x {' '.join(shlex.quote(str(path)) for path in found)}"


def _missing(folder: Path) -> list[Path]:
    found = []
    while not folder.is_dir() and folder != folder.parent:
        found.append(folder)
        folder = folder.parent
    return found[::-1]


def _in_the_way(folder: Path) -> PreflightError | NotADirectoryError:
    """The error for something that is not a folder, and bears the name of one."""
    if folder.is_symlink():
        hint = "mount what it leads to, or choose another store with --store"
        return PreflightError(f"the link leads nowhere: {folder.readlink()}", where=str(folder), hint=hint)
    return NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def _make(folder: Path, mode: int) -> None:
    try:
        folder.mkdir(mode=mode)
    except FileExistsError as error:
        if folder.is_dir():  # another run was faster
            return
        raise _in_the_way(folder) from error
    inherited = stat.S_IMODE(folder.stat().st_mode)
    if (wanted := mode | inherited & stat.S_ISGID) != inherited:
        folder.chmod(wanted)
    durable.fsync_directory(folder.parent)
