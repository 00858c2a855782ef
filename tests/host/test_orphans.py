"""A run whose supervisor was killed leaves orphans: the next run finds them by the run's id."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.processes import eventually, processes_of

from host.test_supervisor import OWNER, STUBBORN, VLLM, WAIT
from quantpipe.host import orphans
from quantpipe.host.child import Child
from quantpipe.smoke.stage import of_runs
from quantpipe.store.receipt import RunDirectory

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
    code = "import sys; from quantpipe.host.orphans import reap; print(reap(sys.argv[1].__eq__))"
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


LOAD = """
import sys, time
from pathlib import Path
from quantpipe.console import Console
from quantpipe.recipe.probes import Probe
from quantpipe.recipe.serve import Serve
from quantpipe.recipe.smoke import Smoke
from quantpipe.settings import Settings
from quantpipe.smoke import launchers, standalone
from quantpipe.smoke.server_command import ServerCommand
script, path, probe, mode = sys.argv[1:]
mode = mode or ("slow" if probe == "slow" else "rooted")
def command(launcher, python, checkpoint, serve, port, *, program=None):
    return ServerCommand((sys.executable, script, str(port), mode, str(checkpoint)), {})
launchers.smoke_command = command
launchers.Process.preflight = lambda self: None
smoke = Smoke(launcher="cpu", serve=Serve(served_model_name="tiny"), probes=(Probe(prompt=probe),))
standalone.smoke_directory(Path(path), standalone.Setup(smoke), Settings(), Console())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder with a short path: sockets would lie in it."""
    with tempfile.TemporaryDirectory(prefix="qp-") as name:
        yield Path(name)


def loader(tmp_path: Path, folder: Path, mark: str) -> Callable[..., subprocess.Popen[str]]:
    """Starts loads of one checkpoint by the fake, with the given probe."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    script = str(Path(__file__).parents[1] / "smoke" / "fake_server.py")
    environment = {**os.environ, "SMOKE_TEST_MARK": mark, "TMPDIR": str(folder)}
    environment["QUANTPIPE_PASS_ENVIRONMENT"] = "SMOKE_TEST_MARK"

    def load(probe: str, mode: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LOAD, script, str(checkpoint), probe, mode]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return load


def until_asked(folder: Path) -> None:
    """Until a load has reached its probes."""
    assert eventually(
        lambda: any("/v1/models" in log.read_text() for log in folder.glob("quantpipe-smoke-*/smoke.log")), 30
    )


def test_the_next_load_of_a_path_ends_what_a_killed_one_has_left(tmp_path: Path, folder: Path) -> None:
    """quantpipe and its supervisor are both killed while a probe waits: the server continues, unwatched."""
    mark = secrets.token_hex(8)
    load = loader(tmp_path, folder, mark)
    first = load("slow")
    until_asked(folder)
    (supervisor,) = (
        process
        for process in processes_of(f"SMOKE_TEST_MARK={mark}")
        if b"supervisor.py" in Path(f"/proc/{process}/cmdline").read_bytes()
    )
    os.kill(first.pid, signal.SIGSTOP)  # or it would see its supervisor's end, and clean up
    os.kill(supervisor, signal.SIGKILL)
    first.kill()
    first.communicate()
    (orphan,) = processes_of(f"SMOKE_TEST_MARK={mark}")
    second = load("One")
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert f"ended leftovers of a killed run: process {orphan}" in errors
    assert processes_of(f"SMOKE_TEST_MARK={mark}") == []
    assert errors.count("quantpipe-smoke-") == 1  # the log's folder, which it removed
    assert list(folder.glob("quantpipe-*")) == []


def test_the_next_load_of_a_path_removes_what_sigkill_left_and_no_failure_s_log(
    tmp_path: Path, folder: Path
) -> None:
    """The supervisor ends the server and removes its temporary files; the log stays until then."""
    mark = secrets.token_hex(8)
    load = loader(tmp_path, folder, mark)
    failed = load("slow", "exits")
    _, errors = failed.communicate(timeout=60)
    assert failed.returncode == 1, errors
    (kept,) = folder.glob("quantpipe-smoke-*")
    killed = load("slow")
    until_asked(folder)
    killed.kill()
    killed.communicate()
    deadline = time.monotonic() + 30
    while processes_of(f"SMOKE_TEST_MARK={mark}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(list(folder.glob("quantpipe-*"))) == 2
    last = load("One")
    _, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors
    assert "removed leftovers of a killed run: " in errors
    assert [path.name for path in folder.iterdir()] == [kept.name]
    assert [path.name for path in kept.iterdir()] == ["smoke.log"]


def test_orphans_leave_nothing_in_dev_shm(tmp_path: Path, run_id: str) -> None:
    """Not even those that only SIGKILL ends: their resource tracker is left to clean up."""
    code = OWNER + VLLM + STUBBORN + WAIT
    said = tmp_path / "said"
    environment = {**os.environ, "QUANTPIPE_RUN_ID": run_id}
    command = [sys.executable, "-c", code, str(said)]
    process = Child(command, environment=environment, log=tmp_path / "log", grace=0.2)
    assert eventually(said.exists, 30)
    names = json.loads(said.read_text())["names"]
    os.kill(process.pid, signal.SIGKILL)
    process.stop()
    assert all((Path("/dev/shm") / name).exists() for name in names)
    began = time.monotonic()
    assert len(orphans.reap(lambda found: found == run_id, grace=0.3)) == 2
    assert time.monotonic() - began < 4
    assert [name for name in names if (Path("/dev/shm") / name).exists()] == []
