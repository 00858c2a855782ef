"""Folders for temporary files: gone with their run, removed by the next one where it was killed."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantpipe.smoke import scratch
from quantpipe.smoke.server_command import ServerCommand


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with a short path, and the only one."""
    del tmp_path  # pytest asks for the temporary folder only once: let it be before this
    with tempfile.TemporaryDirectory(prefix="qp-") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.setattr(scratch, "_SHORT", Path(name))
        yield Path(name)


def test_it_is_gone_after_its_block_and_kept_where_that_is_said(base: Path) -> None:
    with scratch.for_logs("r", "smoke-1") as own:
        assert own.path.name.startswith("quantpipe-smoke-1-")
        assert own.path.stat().st_mode & 0o777 == 0o700
    assert list(base.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), scratch.for_logs("r", "x"):
        raise KeyboardInterrupt
    assert list(base.iterdir()) == []
    with scratch.for_logs("r", "x") as own:
        (own.path / "smoke.log").write_text("x")
        own.keep()
    assert scratch.sweep(lambda _: True) == []
    assert [path.name for path in own.path.iterdir()] == ["smoke.log"]


def abandoned(run_id: str) -> Path:
    """As a process leaves it that was killed."""
    code = "import os, sys; from quantpipe.smoke import scratch; "
    code += "block = scratch.for_logs(sys.argv[1], 'x'); own = block.__enter__(); "
    code += "print(own.path, flush=True); os._exit(9)"
    environment = {**os.environ, "TMPDIR": tempfile.gettempdir()}
    done = subprocess.run(
        [sys.executable, "-c", code, run_id], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    return Path(done.stdout.strip())


def test_the_sweep_takes_what_is_wanted_and_free(base: Path) -> None:
    ours, other = abandoned("smoke-1-a"), abandoned("smoke-2-a")
    (ours / "more").mkdir()
    (base / "quantpipe-nothing").mkdir()
    empty = base / "quantpipe-new"  # just being made: its id is not there yet
    empty.mkdir()
    (empty / "lock").touch()
    with scratch.for_sockets("smoke-1-b") as living:
        assert scratch.sweep(lambda run_id: run_id.startswith("smoke-1-")) == [ours]
        assert living.path.exists()
    left = sorted(path.name for path in base.iterdir())
    assert left == sorted(["quantpipe-nothing", "quantpipe-new", other.name])


def test_a_link_is_not_followed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every user may put names into the temporary folder."""
    target = tmp_path_factory.mktemp("target")
    (target / "file").write_text("precious")
    (target / "lock").write_text("r")
    (base / "quantpipe-trap").symlink_to(target)
    planted = base / "quantpipe-planted"
    planted.mkdir()
    (planted / "lock").symlink_to(target / "lock")
    scratch.sweep(lambda _: True)
    assert (target / "file").exists() and planted.exists()


def test_another_user_s_folder_stays(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = abandoned("r")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert scratch.sweep(lambda _: True) == []
    assert theirs.exists()


def test_what_was_started_there_holds_it_and_finds_it(base: Path) -> None:
    """quantpipe and its supervisor are both killed: the folder is held until the server is gone as well."""
    code = f"""
import sys, time
from pathlib import Path
from quantpipe.smoke import scratch
from quantpipe.smoke.server_command import ServerCommand
said = Path({str(base / "said")!r})
server = "import os, sys, tempfile, time; "
server += "print(os.getpid(), tempfile.gettempdir(), os.environ['VLLM_RPC_BASE_PATH'], flush=True); "
server += "time.sleep(600)"
command = ServerCommand((sys.executable, "-c", server), {{"QUANTPIPE_RUN_ID": "r"}})
with scratch.for_sockets("r") as own:
    child = own.child(command, "r", log=said, folder=said.parent)
    print(child.pid, own.path, flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(base)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        supervisor, own = process.stdout.readline().split()
    deadline = time.monotonic() + 30
    while len(said := (base / "said").read_text().split()) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    server = int(said[0])
    try:
        assert said[1:] == [own, own]
        process.send_signal(signal.SIGSTOP)
        os.kill(int(supervisor), signal.SIGKILL)
        process.kill()
        process.wait()
        assert scratch.sweep(lambda _: True) == []
    finally:
        os.kill(server, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{server}/cwd").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert scratch.sweep(lambda _: True) == [Path(own)]


def test_a_command_s_own_temporary_folder_counts_more(base: Path) -> None:
    command = ServerCommand(
        (sys.executable, "-c", "import os; print(os.environ['TMPDIR'])"), {"TMPDIR": "/x"}
    )
    with scratch.for_sockets("r") as own, own.child(command, "r", log=base / "log", folder=base) as process:
        assert process.wait(20) == 0
    assert (base / "log").read_text() == "/x\n"


@pytest.mark.parametrize("length", [10, 120])
def test_sockets_fit_whatever_the_temporary_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """vLLM names its sockets by a UUID; a path beyond 107 bytes cannot be bound."""
    base = tmp_path / "t" if length < 100 else tmp_path / ("t" * length)
    base.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    with scratch.for_sockets("r") as own, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(own.path / f"{secrets.token_hex(4)}-0000-0000-0000-000000000000"))
        fits = len(str(base)) + len("/quantpipe-12345678/") + 36 <= 107
        assert own.path.parent == (base if fits else Path("/tmp"))
    assert not own.path.exists()
