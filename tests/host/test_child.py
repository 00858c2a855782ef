from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.processes import alive, eventually

from quantpipe.host import child
from quantpipe.host.child import Child

STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
time.sleep(600)
"""


def start(tmp_path: Path, code: str, *arguments: str, grace: float = 0.3) -> Child:
    return Child(
        [sys.executable, "-c", code, *arguments],
        environment=os.environ,
        log=tmp_path / "log",
        grace=grace,
    )


def test_exit_status_and_output_are_kept(tmp_path: Path) -> None:
    with start(tmp_path, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)") as process:
        assert process.wait(20) == 7
    assert sorted(child.tail(tmp_path / "log")) == ["err", "out"]


def test_signal_becomes_128_plus_its_number(tmp_path: Path) -> None:
    with start(tmp_path, "import os; os.kill(os.getpid(), 9)") as process:
        status = process.wait(20)
    assert status == 128 + signal.SIGKILL
    assert child.signal_name(status) == "SIGKILL"
    assert child.signal_name(1) is None


def test_a_killed_supervisor_is_128_plus_its_signal_too(tmp_path: Path) -> None:
    code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
    process = start(tmp_path, code, str(tmp_path / "pid"))
    assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    os.kill(process.pid, signal.SIGKILL)
    try:
        assert process.wait(20) == 128 + signal.SIGKILL
        assert process.poll() == 128 + signal.SIGKILL
        assert process.stop() == 128 + signal.SIGKILL
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_bytes_read_counts_what_the_tree_reads(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(3_000_000))
    code = "import sys, time; open(sys.argv[1], 'rb').read(); print('read', flush=True); time.sleep(600)"
    with start(tmp_path, code, str(tmp_path / "data")) as process:
        assert eventually(lambda: "read" in child.tail(tmp_path / "log"))
        assert process.bytes_read() >= 3_000_000


def test_missing_program_is_status_127(tmp_path: Path) -> None:
    with Child(["/no/such/program"], environment={}, log=tmp_path / "log") as process:
        assert process.wait(20) == 127
    assert "/no/such/program" in child.tail(tmp_path / "log")[-1]


def test_stop_ends_processes_that_ignore_sigterm_and_left_the_session(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    process = start(tmp_path, STUBBORN, str(pid_file))
    assert eventually(lambda: pid_file.exists() and pid_file.read_text() != "")
    grandchild = int(pid_file.read_text())
    assert alive(grandchild)
    process.stop()
    assert not alive(grandchild)
    assert process.poll() == 128 + signal.SIGKILL


def test_nothing_survives_sigkill_of_quantpipe(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    parent = f"""
import os, sys, time
from pathlib import Path
from quantpipe.host.child import Child
Child([sys.executable, "-c", {STUBBORN!r}, {str(pid_file)!r}], environment=os.environ,
      log=Path({str(tmp_path / "log")!r}), grace=0.2)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], start_new_session=True)
    assert eventually(lambda: pid_file.exists() and pid_file.read_text() != "")
    grandchild = int(pid_file.read_text())
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert eventually(lambda: not alive(grandchild))


def test_activity_grows_with_work_only(tmp_path: Path) -> None:
    with start(tmp_path, "import time; print('up', flush=True); time.sleep(600)") as process:
        assert eventually(lambda: "up" in child.tail(tmp_path / "log"))
        time.sleep(0.2)
        idle = process.activity()
        time.sleep(0.3)
        assert process.activity() == idle
    with start(tmp_path, "while True: pass") as process:
        assert eventually(lambda: process.activity() > 20)


@pytest.mark.parametrize("count", [1, 3])
def test_tail_reads_the_end(tmp_path: Path, count: int) -> None:
    log = tmp_path / "log"
    log.write_text("\n".join(str(i) for i in range(100_000)))
    assert child.tail(log, count) == [str(i) for i in range(100_000 - count, 100_000)]
    assert child.tail(tmp_path / "none") == []
