"""A run whose supervisor was killed leaves orphans: the next run finds them by the run's id."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import processes_of

from quantpipe.child import Child
from quantpipe.receipt import RunDirectory
from quantpipe.smoke import orphans
from quantpipe.smoke.stage import of_runs

FAMILY = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(0.1)  # the one between is gone
        print("up", flush=True)
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(600)
"""


@pytest.fixture
def run_id() -> Iterator[str]:
    name = f"test-{secrets.token_hex(6)}"
    yield name
    for process in processes_of(f"QUANTPIPE_RUN_ID={name}"):
        os.kill(process, signal.SIGKILL)


def start(tmp_path: Path, run_id: str) -> Child:
    environment = {**os.environ, "QUANTPIPE_RUN_ID": run_id}
    process = Child([sys.executable, "-c", FAMILY], environment=environment, log=tmp_path / "log", grace=0.2)
    deadline = time.monotonic() + 20
    while "up" not in (tmp_path / "log").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def test_what_a_living_supervisor_watches_over_is_no_orphan(tmp_path: Path, run_id: str) -> None:
    with start(tmp_path, run_id):
        assert len(orphans.carriers(lambda found: found == run_id)) >= 3
        assert orphans.watched(lambda found: found == run_id) == {run_id}
        assert orphans.reap(lambda found: found == run_id) == []
        assert len(orphans.carriers(lambda found: found == run_id)) >= 3


def test_orphans_are_ended_even_those_that_ignore_sigterm(tmp_path: Path, run_id: str) -> None:
    process = start(tmp_path, run_id)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = processes_of(f"QUANTPIPE_RUN_ID={run_id}")
    assert left
    assert orphans.orphans(lambda found: found == run_id) == sorted(left)
    assert orphans.reap(lambda found: found == f"{run_id}-other") == []
    assert sorted(orphans.reap(lambda found: found == run_id, grace=0.3)) == sorted(left)
    assert processes_of(f"QUANTPIPE_RUN_ID={run_id}") == []
    process.stop()


def test_a_process_that_looks_for_orphans_is_none(run_id: str) -> None:
    """QUANTPIPE_RUN_ID in the caller's own environment: neither it nor its shell is ended."""
    code = "import sys; from quantpipe.smoke.orphans import reap; print(reap(sys.argv[1].__eq__))"
    done = subprocess.run(
        ["sh", "-c", f'"$0" -c "{code}" "$1"; echo alive', sys.executable, run_id],
        env={**os.environ, "QUANTPIPE_RUN_ID": run_id},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\nalive\n"


def test_runs_that_a_run_continues(tmp_path: Path) -> None:
    for name, before in (("r1", None), ("r2", "r1"), ("r3", "r2"), ("other", None)):
        run = RunDirectory(tmp_path / name)
        run.create()
        run.update_state(continues=before)
    wanted = of_runs(RunDirectory(tmp_path / "r3"))
    assert [name for name in ("r1", "r2", "r3", "other") if wanted(name)] == ["r1", "r2", "r3"]
    assert not of_runs(RunDirectory(tmp_path / "none"))("r1")
