from __future__ import annotations

import io
import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from quantpipe.console import Console
from quantpipe.errors import (
    PreflightError,
    QuantizeError,
    QuantpipeError,
    RetryableError,
    StorageFullError,
    VerificationError,
)
from quantpipe.host import cgroups, child
from quantpipe.quantize import worker_process
from quantpipe.quantize.worker.protocol import FAULTS, Job
from quantpipe.quantize.worker_process import WorkerReport

STARTED = ["send", {"event": "started", "versions": {"torch": "2.13"}, "threads": 4}]
FINISHED = ["send", {"event": "finished", "seconds": 1.25}]


def layer(index: int) -> list[Any]:
    return ["send", {"event": "layer", "index": index, "of": 3}]


def failed(fault: str, action: str = "") -> list[Any]:
    return ["send", {"event": "failed", "type": "T", "message": "m", "action": action, "fault": fault}]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Worker:
    """The fake, run as the quantize stage runs the real one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "quantize.log"
        self.run_id = f"test-{secrets.token_hex(6)}"
        self.stream = io.StringIO()
        self.console = Console("human", verbose=True, stream=self.stream)
        self.console.record_to(folder / "events.jsonl")

    def __call__(self, *steps: Any, stall: float = 30, **options: Any) -> WorkerReport:
        job = Job("/snapshot", "/output", "Qwen3-32B", {"do": list(steps)}, "cpu", None, False)
        return worker_process.run(
            job,
            python=Path(sys.executable),
            folder=self.folder,
            log=self.log,
            run_id=self.run_id,
            stall_seconds=stall,
            console=self.console,
            **options,
        )

    def fails(self, *steps: Any, stall: float = 30) -> QuantpipeError:
        with pytest.raises(QuantpipeError) as caught:
            self(*steps, stall=stall)
        return caught.value

    def events(self) -> list[dict[str, Any]]:
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        return [event["worker"] for event in map(json.loads, lines) if event["event"] == "worker"]

    def left(self) -> list[str]:
        """Processes of this run that are still there."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    if f"QUANTPIPE_RUN_ID={self.run_id}".encode() in (folder / "environ").read_bytes():
                        found.append(folder.name)
                except OSError:
                    continue
        return found


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(worker_process, "WORKER", Path(__file__).with_name("fake_worker.py"))
    monkeypatch.setattr(worker_process, "_POLL_SECONDS", 0.1)
    real = child.Child.__init__

    def hasty(self: child.Child, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **{**options, "grace": 0.3})

    monkeypatch.setattr(child.Child, "__init__", hasty)
    return Worker(tmp_path)


def test_what_a_good_worker_told(worker: Worker) -> None:
    outcome = worker(STARTED, layer(1), layer(2), layer(3), FINISHED)
    assert outcome == WorkerReport({"torch": "2.13"}, 4, 3, 1.25, None, True)
    assert [event["event"] for event in worker.events()] == ["started", "layer", "layer", "layer", "finished"]
    assert "the worker's own log" in worker.log.read_text()


def test_phases_are_told_in_words(worker: Worker) -> None:
    worker(["send", {"event": "phase", "name": "load"}], FINISHED)
    assert "worker: loading the BF16 model" in worker.stream.getvalue()


def test_layers_move_a_bar_on_a_terminal(worker: Worker) -> None:
    worker.stream = Terminal()
    worker.console = Console("human", stream=worker.stream)
    worker(layer(1), ["sleep", 0.3], layer(2), ["sleep", 0.3], layer(3), FINISHED)
    assert "quantize" in worker.stream.getvalue()
    assert "/3" in worker.stream.getvalue()


def test_the_bar_says_what_happens_within_a_layer(worker: Worker) -> None:
    """Of a run that continues another one, the bar has the layers that are left."""
    worker.stream = Terminal()
    worker.console = Console("human", stream=worker.stream)
    step = {"event": "step", "name": "quantize", "done": 5, "of": 388}
    began = {"event": "layer", "index": 3, "of": 3, "eta": 125.0}
    worker(["send", {**step, "name": "write"}], layer(2), ["send", step], ["send", began], FINISHED)
    shown = worker.stream.getvalue()
    assert "quantize layer 2 of 3: quantize 5/388" in shown
    assert "quantize layer 3 of 3, 2 min" in shown and "left" in shown
    assert "/2" in shown


def test_an_event_may_come_in_pieces(worker: Worker) -> None:
    assert worker(["halves"], FINISHED).finished
    assert worker.events()[0] == {"event": "phase", "name": "import"}


def test_a_message_longer_than_a_pipe(worker: Worker) -> None:
    failure = worker.fails(
        ["send", {"event": "failed", "type": "T", "message": "x" * 300_000, "action": "", "fault": "error"}]
    )
    assert failure.what.endswith("x" * 1000)


def test_its_environment_and_folder(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "/ours")
    monkeypatch.setenv("PYTHONPATH", "/usr/local/Ascend/tbe")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "MY_OWN", "MY_OTHER"):
        monkeypatch.setenv(name, "x")
    worker(["environment"], FINISHED, threads=3, passed=("MY_OWN",))
    told = worker.events()[0]
    environment = told["environment"]
    assert "VIRTUAL_ENV" not in environment
    assert {name for name, value in environment.items() if value == "x"} == {"MY_OWN"}
    assert environment["PYTHONPATH"] == "/usr/local/Ascend/tbe"
    assert environment["HF_HUB_OFFLINE"] == environment["TRANSFORMERS_OFFLINE"] == "1"
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert environment["QUANTPIPE_RUN_ID"] == worker.run_id
    assert Path(told["folder"]).parent == worker.folder  # not where the user stands
    assert not Path(told["folder"]).exists()


def test_the_job_file_stays_for_whoever_looks_into_it(worker: Worker) -> None:
    worker(FINISHED)
    assert Job.read(worker.folder / "job.json").adapter == "Qwen3-32B"


# -- failures -----------------------------------------------------------------------------------------

KINDS = {
    "memory": (PreflightError, 5, "more memory"),
    "environment": (PreflightError, 5, "QUANTPIPE_QUANTIZE_PYTHON"),
    "device": (PreflightError, 5, "quantize.device"),
    "error": (QuantizeError, 1, "log"),
}


@pytest.mark.parametrize("fault", KINDS)
def test_each_fault_becomes_its_error(worker: Worker, fault: str) -> None:
    kind, code, hint = KINDS[fault]
    failure = worker.fails(STARTED, failed(fault), ["exit", 1])
    assert type(failure) is kind
    assert failure.exit_code == code
    assert failure.what.endswith("failed: T: m")
    assert hint in (failure.hint or "")
    assert failure.where == str(worker.log)
    assert "the worker's own log" in failure.details


def test_a_snapshot_that_changed_is_a_failed_verification(worker: Worker) -> None:
    told = {
        "type": "ChangedError",
        "message": "a.safetensors changed",
        "action": "do this",
        "fault": "source",
    }
    failure = worker.fails(STARTED, ["send", {"event": "failed", **told}], ["exit", 1])
    assert type(failure) is VerificationError
    assert (failure.exit_code, failure.what, failure.hint) == (3, "a.safetensors changed", "do this")


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [("ENOSPC", StorageFullError, 5), ("EACCES", PreflightError, 5), ("EIO", RetryableError, 75)],
)
def test_a_fault_of_the_storage_is_the_same_error_as_everywhere(
    worker: Worker, name: str, kind: type[QuantpipeError], code: int
) -> None:
    assert {"storage", "source", *KINDS} == set(FAULTS)
    told = {"type": "OSError", "message": "m", "action": "", "fault": "storage", "errno": name}
    failure = worker.fails(STARTED, ["send", {"event": "failed", **told, "file": "/shard"}], ["exit", 1])
    assert type(failure) is kind
    assert failure.exit_code == code
    assert failure.where == "/shard"
    assert failure.details == (f"reported by the quantize worker, whose log is {worker.log}",)
    failure = worker.fails(["send", {"event": "failed", **told, "file": ""}], ["exit", 1])
    assert failure.where == str(worker.log)


def test_only_its_own_errors_are_laid_on_msmodelslim(worker: Worker) -> None:
    assert worker.fails(failed("error")).what.startswith("msmodelslim failed")
    assert "msmodelslim failed" not in worker.fails(failed("memory")).what


def test_msmodelslim_s_own_advice_comes_first(worker: Worker) -> None:
    assert worker.fails(failed("error", "do this")).hint == "do this"


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS"])
def test_a_crash_is_named_by_its_signal(worker: Worker, name: str) -> None:
    failure = worker.fails(STARTED, layer(1), ["kill", name])
    assert isinstance(failure, QuantizeError)
    assert failure.what == f"the quantize worker crashed with {name}"
    assert "the worker's own log" in failure.details


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_ended_from_outside_it_may_be_run_again(worker: Worker, name: str) -> None:
    failure = worker.fails(STARTED, ["kill", name])
    assert isinstance(failure, RetryableError)
    assert name in failure.what
    assert failure.exit_code == 75


def test_killed_for_memory(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr(cgroups, "out_of_memory_kills", lambda: next(counts))
    failure = worker.fails(STARTED, ["kill", "SIGKILL"])
    assert isinstance(failure, PreflightError)
    assert "out of memory" in failure.what


@pytest.mark.parametrize("status", [0, 3])
def test_a_silent_end_is_no_success(worker: Worker, status: int) -> None:
    failure = worker.fails(STARTED, layer(1), ["exit", status])
    assert isinstance(failure, QuantizeError)
    assert f"status {status}" in failure.what


def test_finished_and_then_a_crash_is_no_success(worker: Worker) -> None:
    assert "SIGSEGV" in worker.fails(FINISHED, ["kill", "SIGSEGV"]).what


def test_a_hang_is_seen_and_ended(worker: Worker) -> None:
    began = time.monotonic()
    failure = worker.fails(STARTED, layer(1), ["child"], ["sleep", 600], stall=1)
    assert isinstance(failure, RetryableError)
    assert "hung" in failure.what
    assert time.monotonic() - began < 15
    assert worker.left() == []


def test_computing_in_silence_is_no_hang(worker: Worker) -> None:
    assert worker(STARTED, ["work"], FINISHED, stall=1).finished


def test_nothing_of_it_is_left_after_success(worker: Worker) -> None:
    worker(["child"], FINISHED)
    assert worker.left() == []


def test_no_descriptor_is_left_open(worker: Worker) -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    worker(FINISHED)
    before = open_descriptors()
    worker(FINISHED)
    worker.fails(failed("error"))
    assert open_descriptors() == before


def test_an_interpreter_that_is_not_there(worker: Worker, tmp_path: Path) -> None:
    job = Job("/s", "/o", "a", {"do": []}, "cpu", None, False)
    with pytest.raises(QuantizeError, match="status 127") as caught:
        worker_process.run(
            job,
            python=tmp_path / "no-python",
            folder=tmp_path,
            log=tmp_path / "log",
            run_id="x",
            stall_seconds=10,
            console=worker.console,
        )
    assert any("cannot start" in line for line in caught.value.details)
