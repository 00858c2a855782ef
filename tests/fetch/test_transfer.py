from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quantpipe.errors import RecipeError, RetryableError
from quantpipe.fetch.figures import FileFigures
from quantpipe.fetch.hub import PassingFault, RemoteFile, Sink
from quantpipe.fetch.policy import Policy
from quantpipe.fetch.snapshot import Snapshot
from quantpipe.fetch.source import Source
from quantpipe.fetch.transfer import Transfers

DATA = {f"{i}.json": bytes([i]) * 1000 for i in range(6)}
FILES = [RemoteFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in DATA.items()]
POLICY = Policy(attempts=3, stall_seconds=0.3, floor_bytes=10, overall_seconds=1.0, backoff_seconds=0.01)

Deliver = Callable[[RemoteFile, Sink], None]


class FakeHub:
    """A hub whose `fetch` is a function."""

    name = "fake"
    parallel = 1

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver

    def describe(self, repo: str) -> str:
        return f"fake {repo}"

    def folder(self, repo: str) -> str:
        return repo

    def resolve(self, repo: str, revision: str | None) -> str:
        return "commit"

    def list(self, repo: str, commit: str) -> tuple[RemoteFile, ...]:
        return tuple(FILES)

    def read(self, repo: str, commit: str, path: str) -> bytes:
        return DATA[path]

    def fetch(self, repo: str, commit: str, file: RemoteFile, sink: Sink) -> None:
        self._deliver(file, sink)

    def close(self) -> None:
        pass


def run(tmp_path: Path, deliver: Deliver, *, jobs: int = 3, policy: Policy = POLICY) -> list[FileFigures]:
    snapshot = Snapshot(tmp_path / "snapshot")
    snapshot.begin(FILES, {})
    source = Source(FakeHub(deliver), "a/b", "commit", snapshot)
    transfers = Transfers(source, policy=policy, jobs=jobs, present=DATA)
    return transfers.run(FILES)


def whole(file: RemoteFile, sink: Sink) -> None:
    sink.write(DATA[file.path][sink.offset :])


def test_all_files_arrive(tmp_path: Path) -> None:
    figures = run(tmp_path, whole)
    assert sorted(f.path for f in figures) == sorted(DATA)
    assert all((tmp_path / "snapshot" / path).read_bytes() == data for path, data in DATA.items())


def test_jobs_bound_what_goes_on_at_a_time(tmp_path: Path) -> None:
    active, most, lock = 0, 0, threading.Lock()

    def deliver(file: RemoteFile, sink: Sink) -> None:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.02)
        whole(file, sink)
        with lock:
            active -= 1

    run(tmp_path, deliver, jobs=2)
    assert most == 2


def test_progress_renews_the_attempts(tmp_path: Path) -> None:
    def deliver(file: RemoteFile, sink: Sink) -> None:
        sink.write(DATA[file.path][sink.offset : sink.offset + 100])
        if sink.offset < file.size:
            raise PassingFault("broke off")

    figures = run(tmp_path, deliver)
    assert all(f.retries == 9 for f in figures), "more retries than attempts, since each brought bytes"


def test_drip_below_the_floor_is_a_stall(tmp_path: Path) -> None:
    def deliver(file: RemoteFile, sink: Sink) -> None:
        for byte in DATA[file.path][sink.offset :]:
            sink.write(bytes([byte]))
            time.sleep(0.2)

    policy = replace(POLICY, attempts=2, floor_bytes=500)
    with pytest.raises(RetryableError, match=r"fewer than 500 bytes|could not be fetched"):
        run(tmp_path, deliver, policy=replace(policy, overall_seconds=2.0), jobs=1)


def test_thread_that_nothing_wakes_does_not_hold_the_stage_up(tmp_path: Path) -> None:
    release = threading.Event()

    def deliver(file: RemoteFile, sink: Sink) -> None:
        release.wait()

    started = time.monotonic()
    try:
        with pytest.raises(RetryableError, match="no data arrived") as caught:
            run(tmp_path, deliver)
    finally:
        release.set()
    assert time.monotonic() - started < 4.0
    assert caught.value.exit_code == 75


def test_refusal_of_one_file_ends_the_others(tmp_path: Path) -> None:
    def deliver(file: RemoteFile, sink: Sink) -> None:
        if file.path == "3.json":
            raise RecipeError("no such file", hint="x")
        time.sleep(0.05)
        whole(file, sink)

    with pytest.raises(RecipeError):
        run(tmp_path, deliver, jobs=1)
    left = {path.name for path in (tmp_path / "snapshot").glob("*.json")}
    assert left == {"0.json", "1.json", "2.json"}


def test_too_many_bytes_are_wrong_content(tmp_path: Path) -> None:
    turns: dict[str, int] = {}

    def deliver(file: RemoteFile, sink: Sink) -> None:
        turns[file.path] = turns.get(file.path, 0) + 1
        sink.write(DATA[file.path] + (b"x" if turns[file.path] == 1 else b""))

    figures = run(tmp_path, deliver)
    assert all(f.retries == 1 for f in figures)


def test_error_of_a_program_is_not_retried(tmp_path: Path) -> None:
    def deliver(file: RemoteFile, sink: Sink) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, deliver)
