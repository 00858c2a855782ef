"""The peak of memory: of this process and of what it started, whatever is gone by the end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from quantpipe.host import procfs
from quantpipe.host.peak import PeakMemory

SIZE = 200 << 20
HOLD = f"held = b'x' * {SIZE}; print('held', flush=True); input()"


def test_the_memory_of_a_child_counts_after_it_has_ended() -> None:
    with PeakMemory() as ours:  # with what other tests of this process have left running
        pass
    before = ours.bytes
    with (
        PeakMemory(seconds=0.02) as peak,
        subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        deadline = time.monotonic() + 30
        while peak.bytes < before + SIZE * 0.9 and time.monotonic() < deadline:
            time.sleep(0.01)  # until a sample is due
        child.communicate("\n")
    assert SIZE * 0.9 < peak.bytes - before < SIZE * 2


def test_a_block_shorter_than_a_sample_has_a_peak() -> None:
    with PeakMemory() as peak:
        pass
    assert peak.bytes > 1 << 20


def test_without_a_thread_the_work_is_done_and_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with PeakMemory() as peak:
        done = True
    assert done
    assert peak.bytes == 0


def test_of_a_process_that_is_gone_nothing_is_counted() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert procfs.memory(child.pid) == 0
