"""Run one command so that nothing of it outlives quantpipe, whatever happens to quantpipe.

Started by child.py as `python supervisor.py GRACE SCRATCH COMMAND...` in a session of its own. Its
standard input is a pipe that quantpipe holds: when that closes (quantpipe stops the child, ends, crashes
or is killed by SIGKILL) the whole tree below is ended, from its top down:

    1. the command itself: SIGTERM, after GRACE seconds SIGKILL; it ends its workers as it sees fit
    2. what is left of the tree: SIGTERM, then SIGKILL
    3. Python's resource trackers: they end by themselves as soon as they serve no process any more,
       and remove leftovers in /dev/shm; only one that does not is killed
    4. files in /dev/shm that the tree had mapped and no tracker knew, and the folder SCRATCH ("": none)

As a subreaper it also inherits, and so can end, processes whose parents are gone or that moved to
another session. Exits with the command's status, or 128 + N if signal N ended it.

Standard library only and alone: it is run by its path, `python -I -S`, and cannot import quantpipe.
So it has a few lines of its own that read /proc; everybody else asks procfs.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_POLL_SECONDS = 0.05

WORKER_SECONDS = 5.0
"""How long workers may take to end after SIGTERM, once the command itself is gone."""

TRACKER_SECONDS = 5.0
"""How long a resource tracker may take to clean up, once nothing else is left."""

KILL_SECONDS = 10.0
"""How long SIGKILL may take to have an effect."""

_TRACKER = b"resource_tracker import main"  # multiprocessing's, and joblib's

SHARED_MEMORY = "/dev/shm"
_LOOK_SECONDS = 1.0
_OWN_NAME = re.compile(r"(psm_|sem\.mp-|torch_|vllm_).+|.+-cpushm_\d+")
"""Names that Python, torch and vLLM make up, of random digits or a process id: nobody else expects them."""

_MAPPED = re.compile(rb"^\S+ \S+ \S+ (\w+):(\w+) (\d+) +/dev/shm/", re.MULTILINE)  # proc(5) maps


def descendants(root: int) -> list[int]:
    """The processes below `root`, by their parents in /proc/*/stat (proc(5), field 4)."""
    children: dict[int, list[int]] = {}
    for process in _processes():
        with contextlib.suppress(OSError), open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123
            parent = int(file.read().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(process)
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  (no pathlib here)


def is_tracker(process: int) -> bool:
    """Whether it is a resource tracker: it knows the semaphores and shared memory that others made."""
    with contextlib.suppress(OSError), open(f"/proc/{process}/cmdline", "rb") as file:  # noqa: PTH123
        return _TRACKER in file.read()
    return False


def send(number: int, processes: Iterable[int]) -> None:
    """A signal to each, as far as they are still there and ours."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def shared_memory_of(processes: Iterable[int]) -> set[tuple[str, int]]:
    """What these processes have mapped of /dev/shm under names of Python, torch or vLLM: names and inodes.

    By device and inode: glibc maps a semaphore before it has its name, and /proc never learns that name.
    """
    mapped = set()
    for process in processes:
        with contextlib.suppress(OSError), open(f"/proc/{process}/maps", "rb") as file:  # noqa: PTH123
            for major, minor, inode in _MAPPED.findall(file.read()):
                mapped.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
    found = set()
    for name in _names() if mapped else ():
        with contextlib.suppress(OSError):
            status = os.lstat(f"{SHARED_MEMORY}/{name}")
            if (status.st_dev, status.st_ino) in mapped and _OWN_NAME.fullmatch(name):
                found.add((name, status.st_ino))
    return found


def remove_shared_memory(segments: set[tuple[str, int]]) -> None:
    """Unlink what of `shared_memory_of` is still there, is this user's, and is mapped by nobody any more."""
    for name, inode in segments - shared_memory_of(_processes() if segments else ()):
        path = f"{SHARED_MEMORY}/{name}"
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            if status.st_ino == inode and status.st_uid == os.geteuid():
                os.unlink(path)  # noqa: PTH108


def _names() -> set[str]:
    try:
        return set(os.listdir(SHARED_MEMORY))  # noqa: PTH208
    except OSError:
        return set()


class _SharedMemory:
    """What the tree maps of /dev/shm, noted while it runs: whoever mapped it may be gone at the end."""

    def __init__(self) -> None:
        self._before = _names()
        self._asked = set(self._before)
        self._mapped: set[tuple[str, int]] = set()
        self._next = 0.0

    def look(self) -> None:
        """Once a second, and only where there are new names: whether they are the tree's."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_SECONDS
        if new := _names() - self._asked:
            self._asked |= new
            self.note()

    def note(self) -> None:
        """Note what the tree has mapped now."""
        mapped = shared_memory_of(descendants(os.getpid()))
        self._mapped |= {(name, inode) for name, inode in mapped if name not in self._before}

    def remove(self) -> None:
        """Unlink what is left, once the tree is gone."""
        remove_shared_memory(self._mapped)


def _reap() -> list[int]:
    """Collect what has ended; what is left."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return descendants(os.getpid())


def _workers() -> list[int]:
    return [process for process in _reap() if not is_tracker(process)]


def _until_gone(left: Callable[[], object], seconds: float, look: Callable[[], None]) -> bool:
    deadline = time.monotonic() + seconds
    while left():
        if time.monotonic() > deadline:
            return False
        look()
        time.sleep(_POLL_SECONDS)
    return True


def _kill(left: Callable[[], list[int]]) -> None:
    """SIGKILL, again and again: what is left may have started more meanwhile.

    Not for ever: a process that waits in a driver cannot be ended, and the caller reports it.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while (processes := left()) and time.monotonic() < deadline:
        send(signal.SIGKILL, processes)
        time.sleep(_POLL_SECONDS)


def _end_tree(child: subprocess.Popen[bytes], grace: float, look: Callable[[], None]) -> None:
    """End the tree from its top down, until nothing is left; see above."""
    if child.poll() is None:
        child.terminate()
        if not _until_gone(lambda: child.poll() is None, grace, look):
            child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(KILL_SECONDS)
    send(signal.SIGTERM, _workers())
    if not _until_gone(_workers, min(grace, WORKER_SECONDS), look):
        _kill(_workers)
    send(signal.SIGCONT, _reap())  # a stopped one cleans up too
    if not _until_gone(_reap, TRACKER_SECONDS, look):
        _kill(_reap)


def _default_signals() -> None:
    """The command handles the signals that its supervisor ignores."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _started(command: list[str]) -> subprocess.Popen[bytes] | None:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            close_fds=False,
            restore_signals=True,
            preexec_fn=_default_signals,
            start_new_session=True,
        )
    except OSError as error:
        print(f"quantpipe: cannot start {command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return None


def main(arguments: list[str]) -> int:
    """Start the command, wait for its end or for the pipe's, leave nothing behind."""
    grace, scratch, command = float(arguments[0]), arguments[1], arguments[2:]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    shared_memory = _SharedMemory()
    code = 127

    def look() -> None:
        with contextlib.suppress(OSError, MemoryError):  # whatever fails here, the tree is ended
            shared_memory.look()

    if (child := _started(command)) is not None:
        while child.poll() is None:
            ready, _, _ = select.select([sys.stdin.fileno()], [], [], _POLL_SECONDS)
            if ready and not os.read(sys.stdin.fileno(), 1):
                break
            look()
        with contextlib.suppress(OSError, MemoryError):
            shared_memory.note()
        _end_tree(child, grace, look)
        code = -signal.SIGKILL if child.returncode is None else child.returncode
    shared_memory.remove()
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
