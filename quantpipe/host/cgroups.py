"""Memory control groups, versions 1 and 2: memory left, and the kernel's OOM kills.

Sources: the kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from quantpipe.host import procfs

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class _MemoryGroup:
    """A memory group of this process, and the names of its files.

    Attributes:
        mount: where its hierarchy is mounted.
        folder: its own folder, below the mount.
    """

    mount: Path
    folder: Path
    limit: str
    used: str
    events: str


def memory_left() -> list[int]:
    """Bytes that each memory group of this process, and each one above it, leaves; none without a limit."""
    left = []
    for group in _memory_groups():
        for place in (group.folder, *group.folder.parents):
            with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
                left.append(_number(place / group.limit) - _number(place / group.used))
            if place == group.mount:
                break
    return left


def out_of_memory_kills() -> int:
    """How many processes of this control group the kernel has killed for memory so far; 0 where unknown."""
    for group in _memory_groups():
        with contextlib.suppress(OSError, ValueError):
            for line in (group.folder / group.events).read_text("ascii").splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def _memory_groups() -> list[_MemoryGroup]:
    found = []
    for line in procfs.control_groups().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder = ROOT / path.strip("/")
            found.append(_MemoryGroup(ROOT, folder, "memory.max", "memory.current", "memory.events"))
        elif "memory" in controllers.split(","):
            mount = ROOT / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control")
            found.append(_MemoryGroup(mount, mount / path.strip("/"), *names))
    return found


def _number(path: Path) -> int:
    return int(path.read_text("ascii"))
