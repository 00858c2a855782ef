from __future__ import annotations

import io
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantpipe.console import Console
from quantpipe.errors import PreflightError, QuantpipeError, SmokeError
from quantpipe.host import child
from quantpipe.recipe.probes import Probe
from quantpipe.recipe.smoke import Timeouts
from quantpipe.smoke import server
from quantpipe.smoke.client import Client
from quantpipe.smoke.probes import Reply, ask
from quantpipe.smoke.server import choose_port, running
from quantpipe.smoke.server_command import ServerCommand
from quantpipe.smoke.session import Session

FAKE_SERVER = Path(__file__).with_name("fake_server.py")
CHECKPOINT = Path("/checkpoint")
PATIENT = Timeouts(stall=30, ready=30, probe=20)


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests need not give a fake ten seconds to end cleanly."""
    monkeypatch.setattr(server, "_DYING_SECONDS", 1.0)
    real = child.Child.__init__

    def hasty(self: child.Child, *arguments: object, **options: object) -> None:
        real(self, *arguments, **{**options, "grace": 0.3})  # type: ignore[arg-type]

    monkeypatch.setattr(child.Child, "__init__", hasty)


@pytest.fixture
def run_id() -> Iterator[str]:
    """A run id; whatever happened, no process that carries it may be left."""
    name = f"test-{secrets.token_hex(6)}"
    yield name
    assert processes_of(name) == []


def processes_of(run_id: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if f"QUANTPIPE_RUN_ID={run_id}".encode() in (folder / "environ").read_bytes():
                    found.append(folder.name)
            except OSError:
                continue
    return found


class Server:
    """The fake in one of its modes, as `running` starts it."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.log = folder / "smoke.log"
        self.run_id = run_id
        self.port = choose_port(0)

    def __call__(self, mode: str, *more: str, timeouts: Timeouts = PATIENT, port: int | None = None):  # type: ignore[no-untyped-def]
        self.port = self.port if port is None else port
        command = ServerCommand(
            (sys.executable, str(FAKE_SERVER), str(self.port), mode, *more), {"MARK": "set"}
        )
        return running(
            command,
            port=self.port,
            log=self.log,
            run_id=self.run_id,
            timeouts=timeouts,
            console=Console("quiet", stream=io.StringIO()),
        )

    def fails(self, mode: str, timeouts: Timeouts = PATIENT) -> QuantpipeError:
        with pytest.raises(QuantpipeError) as caught, self(mode, timeouts=timeouts):
            pytest.fail("it counts as ready")
        return caught.value

    def asked(self, mode: str, probe: Probe | None = None, timeout: float = 10) -> Reply:
        with self(mode) as ready:
            session = Session(Client(ready.url, timeout), "tiny")
            session.require_checkpoint(CHECKPOINT)
            return ask(session, probe or Probe(prompt="One", max_tokens=7))


@pytest.fixture
def start(tmp_path: Path, run_id: str) -> Server:
    return Server(tmp_path, run_id)


# -- the life of a server -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["ready", "loads"])
def test_a_server_that_becomes_ready_is_asked_and_ended(start: Server, mode: str) -> None:
    answer = start.asked(mode)
    assert answer.text == " after One in 7"
    assert answer.matches is None
    assert 0 < answer.seconds < 10
    assert "hello from the fake" in start.log.read_text()
    with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.1", start.port), 1):
        pass


def test_chat_probes_go_to_the_chat_endpoint(start: Server) -> None:
    probe = Probe(prompt="Hi", continuation="after Hi", max_tokens=3, chat=True)
    assert start.asked("ready", probe).matches is True
    assert "/v1/chat/completions" in start.log.read_text()


def test_known_continuations_are_compared(start: Server) -> None:
    with start("ready") as ready:
        for continuation, matches in (("after One", True), (" after One ", True), ("before", False)):
            answer = ask(
                Session(Client(ready.url, 10), "tiny"), Probe(prompt="One", continuation=continuation)
            )
            assert answer.matches is matches


def test_it_runs_where_nothing_shadows_its_modules_with_the_given_environment(
    start: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/ours")
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "VLLM_API_KEY", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "geheim")
    seen = tmp_path / "seen.json"
    with start("where", str(seen)):
        folder, environment = json.loads(seen.read_text())
    assert folder == str(tmp_path)
    assert environment["MARK"] == "set"
    assert environment["QUANTPIPE_RUN_ID"] == start.run_id
    assert "VIRTUAL_ENV" not in environment
    assert "geheim" not in environment.values()


def test_the_log_of_an_earlier_start_is_kept_and_not_blamed(start: Server) -> None:
    start.log.write_text("ERROR: address already in use\n")
    failure = start.fails("exits")
    assert isinstance(failure, SmokeError)
    assert "the first error" in failure.what
    assert start.log.read_text().startswith("ERROR: address already in use\n")


def test_a_server_that_ends_early_is_explained_by_its_first_error(start: Server) -> None:
    failure = start.fails("exits")
    assert failure.exit_code == 4
    assert failure.what == ("the server ended with status 3 before it was ready: ValueError: the first error")
    assert failure.where == str(start.log)
    assert failure.details[-1] == "RuntimeError: its consequence"


def test_memory_is_this_hosts_fault(start: Server) -> None:
    failure = start.fails("no-memory")
    assert isinstance(failure, PreflightError)
    assert "out of memory" in failure.what
    assert "max_model_len" in (failure.hint or "")


def test_a_server_that_hangs_is_given_up(start: Server) -> None:
    began = time.monotonic()
    failure = start.fails("hangs", Timeouts(stall=1.5, ready=60))
    assert "hung" in failure.what
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("mode", ["busy", "unhealthy", "raw", "crawls"])
def test_a_server_that_is_never_ready_is_given_up(start: Server, mode: str) -> None:
    failure = start.fails(mode, Timeouts(stall=60, ready=2.5))
    assert "not ready" in failure.what and "no progress for 2 s" in failure.what


def test_nothing_outlives_it_not_even_what_ignores_signals(start: Server) -> None:
    with start("grandchild"):
        assert len(processes_of(start.run_id)) >= 2
    assert processes_of(start.run_id) == []


@pytest.mark.parametrize("error", [RuntimeError("in a probe"), KeyboardInterrupt()])
def test_an_error_inside_ends_the_server_and_passes(start: Server, error: BaseException) -> None:
    with pytest.raises(type(error)), start("grandchild"):
        raise error
    assert processes_of(start.run_id) == []


def test_a_program_that_cannot_be_started(tmp_path: Path, run_id: str) -> None:
    command = ServerCommand((str(tmp_path / "no-python"), "-m", "vllm"), {})
    log = tmp_path / "log"
    quiet = Console("quiet")
    with (
        pytest.raises(SmokeError, match="status 127") as caught,
        running(command, port=1, log=log, run_id=run_id, timeouts=PATIENT, console=quiet),
    ):
        pytest.fail("it counts as ready")
    assert any("cannot start" in line for line in caught.value.details)


# -- ports --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_refused_before_anything_starts(address: str) -> None:
    with socket.create_server((address, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PreflightError, match=f"port {port} is not available") as caught:
            choose_port(port)
    assert str(port) in (caught.value.hint or "")
    assert choose_port(port) == port


def test_a_free_port_is_found() -> None:
    assert 1024 <= choose_port(0) <= 65535


def test_another_server_on_the_port_does_not_vouch_for_ours(
    start: Server, tmp_path: Path, run_id: str
) -> None:
    """Ours ends since it cannot bind, the other answers /health."""
    with start("ready"):
        second = Server(tmp_path, run_id)
        second.log = tmp_path / "second.log"
        with (
            pytest.raises(QuantpipeError, match=r"another server|port is in use|and not /mine"),
            second("ready", port=start.port) as ready,
        ):
            Session(Client(ready.url, 10), "tiny").require_checkpoint(Path("/mine"))


# -- wrong answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("other-model", r"\['other'\] and not 'tiny'"),
        ("other-root", "serves /another/checkpoint and not /checkpoint"),
        ("no-root", "does not report which directory it serves"),
        ("odd-models", "not 'tiny'"),
        ("error", "HTTP 500: .*the engine fell over"),
        ("no-choices", "no choices"),
        ("list", "no choices"),
        ("not-json", "no valid answer"),
        ("not-http", "no valid answer"),
        ("cut", "no valid answer"),
        ("empty", "is empty"),
        ("null", "is empty"),
        ("mark", "one character over and over"),
        ("again", "one word over and over"),
        ("script", "another script"),
    ],
)
def test_an_answer_that_cannot_be_right(start: Server, mode: str, said: str) -> None:
    with pytest.raises(SmokeError, match=said) as caught:
        start.asked(mode)
    assert (caught.value.where or "").startswith("http://127.0.0.1:")
    assert caught.value.hint
    assert caught.value.details[-1] == f"the server's log: {start.log}"


def test_no_answer_in_time(start: Server) -> None:
    with pytest.raises(SmokeError, match="no answer within 1 s") as caught:
        start.asked("slow", timeout=1)
    assert "smoke.timeouts.probe" in (caught.value.hint or "")


def test_a_server_that_dies_of_a_question_is_explained_by_its_log(start: Server) -> None:
    with pytest.raises(SmokeError) as caught:
        start.asked("dies")
    assert "the server ended with status 9" in caught.value.what
    assert "the kernel is broken" in caught.value.what
    assert caught.value.where == str(start.log)


def test_proxies_of_the_environment_are_not_asked(start: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert start.asked("ready").text
    assert os.environ["http_proxy"]


def test_the_bar_says_what_the_server_is_at(start: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("quantpipe.console._Silent.describe", lambda self, text: said.append(text))
    with start("loads"):
        pass
    assert any("loading shards" in text and text.endswith("/3") for text in said)


def test_time_in_which_it_comes_further_does_not_count(start: Server) -> None:
    began = time.monotonic()
    with start("slow-load", timeouts=Timeouts(stall=3, ready=3, probe=5)):
        assert time.monotonic() - began > 4


# -- what is left, and whose it is --------------------------------------------------------------------


def test_a_killed_supervisor_leaves_an_orphan_that_its_own_end_reaps(start: Server) -> None:
    """The context manager itself finds by the run id what it can no longer find as its child."""
    with start("grandchild"):
        supervisor = next(
            int(process)
            for process in processes_of(start.run_id)
            if b"supervisor.py" in Path(f"/proc/{process}/cmdline").read_bytes()
        )
        os.kill(supervisor, signal.SIGKILL)
        time.sleep(0.2)
        assert processes_of(start.run_id)
    assert processes_of(start.run_id) == []


def test_device_memory_of_a_process_that_is_gone_is_told(
    start: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fake npu-smi that shows a process after the server's end that does not exist."""
    monkeypatch.setattr(server, "_RELEASE_SECONDS", 0.6)
    tool = tmp_path / "bin" / "npu-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\ntest -f $0.table && cat $0.table || true\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    rows = f"| NPU  Chip | Process id | Process name | MB |\n| 0   0   | {2**22 + 5} | python | 53211 |\n"
    rows += f"| 1   0   | {os.getpid()} | pytest | 77 |\n"
    with (
        pytest.raises(PreflightError, match="left over from the smoke server: 53211 MiB of device memory"),
        start("ready"),
    ):
        tool.with_name("npu-smi.table").write_text(rows)
