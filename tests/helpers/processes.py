"""Waiting for what other processes do, and which of them are there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def eventually(condition: Callable[[], bool], seconds: float = 120) -> bool:
    """Whether a condition comes true in time. The limit ends a hung test; no test waits for it to pass."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def alive(pid: int) -> bool:
    """Whether there is such a process, and it is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def processes_of(run_marker: str) -> list[int]:
    """Processes whose environment carries this text: what a run has left over."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and alive(int(entry.name)):
            try:
                variables = (entry / "environ").read_bytes()
            except OSError:
                continue
            if run_marker.encode() in variables:
                found.append(int(entry.name))
    return found
