"""Scratch folders below the temporary folder: removed with their run, or by the next run if it was killed.

A file `lock` in each contains the id of its run, and is locked (flock(2)) as long as quantpipe or anything
that it started there is alive. A folder without that file is kept: it has the log of a failure.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quantpipe.errors import PreflightError
from quantpipe.host.child import Child
from quantpipe.smoke.server_command import ServerCommand

_LOCK = "lock"
_PREFIX = "quantpipe-"
_SHORT = Path("/tmp")

_LONGEST_SOCKET = 107  # bytes of a path, unix(7)
_SOCKET_NAME = len("/") + len("00000000-0000-0000-0000-000000000000")  # vLLM's get_open_zmq_ipc_path
_FOLDER_NAME = len(f"/{_PREFIX}") + 8  # tempfile.mkdtemp


@dataclass(frozen=True)
class Scratch:
    """A folder that is removed at the end of its block.

    Attributes:
        path: where it is.
        descriptor: of its lock; a process that inherits it keeps the folder.
    """

    path: Path
    descriptor: int

    def keep(self) -> None:
        """Never remove it."""
        (self.path / _LOCK).unlink(missing_ok=True)

    def child(self, command: ServerCommand, run_id: str, *, log: Path, folder: Path) -> Child:
        """Start a command with its temporary files and sockets in this folder, which is removed with it.

        Args:
            command: its own environment takes precedence for temporary files.
            log, folder: as `Child`.
        """
        temporary = {"TMPDIR": str(self.path), "VLLM_RPC_BASE_PATH": str(self.path)}
        if command.contained:  # podman's client keeps the state of its containers below TMPDIR
            temporary = {}
        return Child(
            command.arguments,
            environment={**command.full_environment(run_id), **temporary, **command.environment},
            log=log,
            pass_fds=(self.descriptor,),
            folder=folder,
            scratch=self.path,
        )


def temporary_folder() -> Path:
    """The folder for temporary files: TMPDIR, or /tmp and its like.

    Raises:
        PreflightError: none of them is writable.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # a container with a read-only root
        raise PreflightError(
            "no folder for temporary files is writable",
            where=f"TMPDIR={os.environ.get('TMPDIR', '')}",
            hint="mount one at /tmp (in Kubernetes an emptyDir), or set TMPDIR to a writable folder",
        ) from error


def for_sockets(run_id: str) -> contextlib.AbstractContextManager[Scratch]:
    """A folder in which the paths of vLLM's sockets are short enough, whatever TMPDIR is."""
    base = temporary_folder()
    length = len(os.fsencode(base)) + _FOLDER_NAME + _SOCKET_NAME
    if length > _LONGEST_SOCKET and os.access(_SHORT, os.W_OK | os.X_OK):
        base = _SHORT
    return _scratch(run_id, _PREFIX, base)


def for_logs(run_id: str, name: str) -> contextlib.AbstractContextManager[Scratch]:
    """A folder whose name begins with `quantpipe-NAME-`."""
    return _scratch(run_id, f"{_PREFIX}{name}-", temporary_folder())


@contextlib.contextmanager
def _scratch(run_id: str, prefix: str, base: Path) -> Iterator[Scratch]:
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, run_id.encode())  # after the lock: `sweep` ignores an empty file
        yield Scratch(path, descriptor)
    finally:
        if (path / _LOCK).exists():
            shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def sweep(wanted: Callable[[str], bool]) -> list[Path]:
    """Remove the folders of runs that were killed.

    Args:
        wanted: selects runs by id.

    Returns:
        The removed ones. Folders that are kept, locked, or another user's stay.
    """
    bases = {_SHORT}
    with contextlib.suppress(PreflightError):
        bases.add(temporary_folder())
    locks = sorted(lock for base in bases for lock in base.glob(f"{_PREFIX}*/{_LOCK}"))
    return [lock.parent for lock in locks if _swept(lock, wanted)]


def _swept(lock: Path, wanted: Callable[[str], bool]) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # reading a pipe would block
            return False
        run_id = os.read(descriptor, 256).decode("utf-8", "replace")
        if not run_id or not wanted(run_id) or os.fstat(descriptor).st_uid != os.geteuid():
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(lock.parent, ignore_errors=True)
        return not lock.parent.exists()
    except OSError:
        return False
    finally:
        os.close(descriptor)
