"""The library of shim.c: how it is compiled, and the page that steers it. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import shutil
import signal
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")

KINDS = (
    "open",
    "create",
    "read",
    "write",
    "fsync",
    "close",
    "rename",
    "renameat2",
    "link",
    "symlink",
    "unlink",
    "rmdir",
    "mkdir",
    "chmod",
    "utime",
    "truncate",
    "stat",
    "readlink",
    "opendir",
)
"""As `enum kind` of shim.c."""

DURABLE = tuple(kind for kind in KINDS if kind not in ("open", "read", "stat", "readlink", "opendir"))
"""Calls that change what is on disk, or say that it is there."""

KILL_TREE, KILL_CALLER, FAIL, FAIL_ON, FAIL_AFTER, PAUSE = range(1, 7)
"""As `enum action` of shim.c."""

_PIDS = 512


class _Page(ctypes.Structure):
    """As `struct control` of shim.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("counter", "target", "mask", "clock")),
        *((name, ctypes.c_int32) for name in ("action", "error", "state", "fired", "logged")),
        *((name, ctypes.c_int32) for name in ("silly", "stale", "cached", "folding", "pids")),
        ("pid", ctypes.c_int32 * _PIDS),
        ("prefix", ctypes.c_char * 1024),
        ("held", ctypes.c_char * 256),
        ("wanted", ctypes.c_char * 256),
    )


def compiled(folder: Path) -> Path | None:
    """The library, compiled into `folder`; None where there is no working C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library, temporary = folder / "shim.so", folder / f"shim-{os.getpid()}.so"
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(temporary), str(SOURCE), "-ldl", "-lpthread"]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return None
    temporary.replace(library)
    return library


class Control:
    """What the processes that follow one page shall do.

    Args:
        path: of the page's file; created.
        prefix: the folder whose files count, links resolved.
        kinds: the calls that count.
        target: the number of the call to act on, from 1; 0 for none.
        action: what to do there.
        error: errno of a failure.
        logged: keep a list of the calls.
        clock: seconds that the clock is ahead.
        held: a part of the path of files that are open elsewhere on this NFS client.
        stale: an open file that others replaced is ESTALE, as on NFS.
        cached: milliseconds for which attributes and links are remembered, as on NFS.
        folding: names do not differ by case alone.
        wanted: a part of the path of the calls that count; all where empty.
    """

    def __init__(
        self,
        path: Path,
        prefix: Path,
        *,
        kinds: tuple[str, ...] = DURABLE,
        target: int = 0,
        action: int = 0,
        error: int = 0,
        logged: bool = False,
        clock: int = 0,
        held: str = "",
        stale: bool = False,
        cached: int = 0,
        folding: bool = False,
        wanted: str = "",
    ) -> None:
        self.path = path
        with path.open("wb") as file:
            file.truncate(ctypes.sizeof(_Page))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), ctypes.sizeof(_Page))
        self.page = _Page.from_buffer(self._memory)
        page = self.page
        page.prefix, page.held, page.wanted = (str(prefix).encode(), held.encode(), wanted.encode())
        page.mask = sum(1 << KINDS.index(kind) for kind in kinds)
        page.target, page.action, page.error = target, action, error
        page.logged, page.clock = int(logged), clock
        page.silly, page.stale, page.cached, page.folding = bool(held), stale, cached, folding

    @property
    def counted(self) -> int:
        """Calls so far."""
        return int(self.page.counter)

    @property
    def fired(self) -> int:
        """How often something was done."""
        return int(self.page.fired)

    @property
    def waits(self) -> bool:
        """Whether a call waits (PAUSE)."""
        return bool(self.page.state == 1)

    def proceed(self) -> None:
        """Let the call that waits go on."""
        self.page.state = 2

    def pids(self) -> list[int]:
        """The processes that followed it, as their own process namespace numbers them."""
        return list(self.page.pid[: min(self.page.pids, _PIDS)])

    def calls(self) -> list[tuple[str, str]]:
        """Kind and path, below the prefix, of each call; needs `logged`."""
        with contextlib.suppress(FileNotFoundError):
            lines = Path(f"{self.path}.log").read_text("utf-8", "replace").splitlines()
            return [(kind, path) for kind, _, path in (line.partition(" ") for line in lines)]
        return []

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to all processes; only where they share our process namespace."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
