"""The one reader of /proc: what the kernel says about processes and about this host, proc(5).

A process may end at any instant: what is asked about one that is gone is None, 0 or empty, never an error.
supervisor.py alone reads a few lines of /proc by itself: it runs without the package.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Stat:
    """A process by /proc/<pid>/stat.

    Attributes:
        state: one letter, field 3: Z and X are dead.
        parent: process id of the parent, field 4.
        cpu_ticks: CPU time in user and kernel mode, clock ticks, fields 14 and 15.
        start_ticks: when it started, clock ticks since boot, field 22: a reused process id has another one.
    """

    state: str
    parent: int
    cpu_ticks: int
    start_ticks: int


def stat(process: int) -> Stat | None:
    """The process's entry; None where it is gone. A dead one that nobody has waited for still has one."""
    try:
        text = (_PROC / str(process) / "stat").read_bytes()
    except OSError:
        return None
    # The command's name, in parentheses, may hold spaces and parentheses itself.
    fields = text.rpartition(b")")[2].split()
    return Stat(fields[0].decode("ascii"), int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19]))


def start_of(process: int) -> int | None:
    """When a living process started, in clock ticks since boot; None where it is gone."""
    found = stat(process)
    return None if found is None or found.state in "ZX" else found.start_ticks


def processes() -> list[int]:
    """The processes of this process namespace."""
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def exists(process: int) -> bool:
    """Whether the process is there, dead or alive."""
    return (_PROC / str(process)).exists()


def ancestors(process: int) -> list[int]:
    """A process and all above it, the first process of the namespace excluded."""
    line = []
    while process > 1:
        line.append(process)
        found = stat(process)
        if found is None:
            break
        process = found.parent
    return line


def variable(process: int, name: str) -> str | None:
    """An environment variable of a process; None where it has none or may not be looked at."""
    _, mark, rest = (b"\0" + _read(process, "environ")).partition(b"\0" + name.encode() + b"=")
    return rest.partition(b"\0")[0].decode("utf-8", "replace") if mark else None


def command_line(process: int) -> bytes:
    """Program and arguments, each ended by a NUL; empty where it is gone or may not be looked at."""
    return _read(process, "cmdline")


@dataclass(frozen=True)
class Io:
    """What a process has read and written so far, bytes, /proc/<pid>/io.

    Attributes:
        read: passed through read calls.
        written: passed through write calls.
        paged_in: fetched from storage, mapped files included.
    """

    read: int = 0
    written: int = 0
    paged_in: int = 0


def io(process: int) -> Io:
    """The process's bytes; zeros where it is gone or may not be looked at."""
    lines = _read(process, "io").decode("ascii").splitlines()
    values = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    return Io(values.get("rchar", 0), values.get("wchar", 0), values.get("read_bytes", 0))


def memory(process: int) -> int:
    """Bytes of anonymous and shared memory that a process holds; 0 where it is gone.

    Mapped files are left out: the kernel drops their pages when it needs memory.
    """
    lines = _read(process, "status").decode("utf-8", "replace").splitlines()
    values = dict(line.partition(":")[::2] for line in lines)
    return sum(int(values.get(name, "0").split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def available_memory() -> int:
    """Bytes that new processes may use without swapping: MemAvailable of /proc/meminfo."""
    for line in (_PROC / "meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def control_groups() -> str:
    """The control groups of this process, as /proc/self/cgroup lists them; empty where it does not."""
    with contextlib.suppress(OSError):
        return (_PROC / "self" / "cgroup").read_text("ascii")
    return ""


@lru_cache(maxsize=1)
def realm() -> str:
    """Where process ids mean something: boot id and process namespace, as 16 hex digits.

    The host's name where /proc is missing.
    """
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
        space = str((_PROC / "self/ns/pid").readlink())
    except OSError:
        boot, space = socket.gethostname(), ""
    return hashlib.sha256(f"{boot} {space}".encode()).hexdigest()[:16]


def _read(process: int, name: str) -> bytes:
    try:
        return (_PROC / str(process) / name).read_bytes()
    except OSError:
        return b""
