from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from quantpipe.host import procfs

GONE = 2**22 + 1
"""No process has this id: the kernel's limit is 2**22."""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a variable of its own, and a name that is hard to parse."""
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b'a) R (b', 0, 0, 0); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "QUANTPIPE_TEST": "here"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_process_its_parent_and_its_start(sleeper: subprocess.Popen[bytes]) -> None:
    found = procfs.stat(sleeper.pid)
    assert found is not None
    assert found.parent == os.getpid()
    assert found.start_ticks == procfs.start_of(sleeper.pid)
    assert sleeper.pid in procfs.processes()
    assert procfs.exists(sleeper.pid)
    assert procfs.ancestors(sleeper.pid)[:2] == [sleeper.pid, os.getpid()]


def test_environment_and_command_line(sleeper: subprocess.Popen[bytes]) -> None:
    assert procfs.variable(sleeper.pid, "QUANTPIPE_TEST") == "here"
    assert procfs.variable(sleeper.pid, "QUANTPIPE_TES") is None
    assert procfs.command_line(sleeper.pid).startswith(os.fsencode(sys.executable) + b"\0-c\0")


def test_a_dead_process_that_nobody_waited_for_has_no_start(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    limit = time.monotonic() + 20
    while procfs.start_of(sleeper.pid) is not None:
        assert time.monotonic() < limit
        time.sleep(0.01)
    found = procfs.stat(sleeper.pid)
    assert found is not None
    assert found.state == "Z"


def test_own_work_is_counted() -> None:
    me = os.getpid()
    before, ticks = procfs.io(me), procfs.stat(me)
    assert ticks is not None
    with open("/dev/zero", "rb", buffering=0) as file:  # noqa: PTH123
        file.read(1 << 20)
    assert procfs.io(me).read >= before.read + (1 << 20)
    assert ticks.cpu_ticks >= 0


def test_a_process_that_is_gone_is_no_error() -> None:
    assert procfs.stat(GONE) is None
    assert procfs.start_of(GONE) is None
    assert not procfs.exists(GONE)
    assert procfs.ancestors(GONE) == [GONE]
    assert procfs.variable(GONE, "PATH") is None
    assert procfs.command_line(GONE) == b""
    assert procfs.io(GONE) == procfs.Io()


def test_this_host() -> None:
    assert procfs.available_memory() > 1 << 20
    assert len(procfs.realm()) == 16
    assert procfs.realm() == procfs.realm()
