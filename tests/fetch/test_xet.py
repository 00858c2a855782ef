from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpipe.fetch.hubs import xet
from quantpipe.testing.faults import Fault
from quantpipe.testing.hubs import XET_TOKEN, HuggingFaceServer
from quantpipe.testing.repository import Repository

from .conftest import MakeContext, model_files
from .test_hubs import QUICK, REPO, SHARD, Bench

FILES = model_files(size=400_000)


@pytest.fixture
def bench(tmp_path: Path, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A hub whose shards are in Xet, and the real hf_xet, for files of any size."""
    monkeypatch.delenv("HF_HUB_DISABLE_XET", raising=False)
    monkeypatch.setattr(xet.Xet.__init__, "__kwdefaults__", {"smallest": 0})
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    server = HuggingFaceServer({REPO: Repository(dict(FILES), branch="main")}, xet=True)
    with server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield Bench("huggingface", server, make_context, tmp_path)


class Group:
    """A fake of hf_xet's group and stream: gives `data` from `start`, then waits or ends."""

    def __init__(self, data: bytes, start: int, *, until: int | None = None, hang: bool = False) -> None:
        self.aborted = threading.Event()
        self._data, self._start, self._until, self._hang = data, start, until, hang

    def abort(self) -> None:
        self.aborted.set()

    def __iter__(self) -> Iterator[bytes]:
        yield self._data[self._start : self._until]
        if self._hang:
            self.aborted.wait()


def play(monkeypatch: pytest.MonkeyPatch, make: Callable[[str, int], Group]) -> list[tuple[str, int]]:
    """Replace Xet by `make(path, start)`; gives the list of its requests."""
    asked: list[tuple[str, int]] = []

    def opened(self: xet.Xet, url: str, file: Any, start: int) -> tuple[Group, Group]:
        asked.append((file.path, start))
        group = make(file.path, start)
        return group, group

    monkeypatch.setattr(xet.Xet, "_open", opened)
    return asked


def test_bytes_come_by_xet_and_are_checked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = play(monkeypatch, lambda path, start: Group(FILES[path], start))
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES
    assert sorted(path for path, _ in asked) == sorted(p for p in FILES if p.endswith(".safetensors"))
    assert bench.server.sent(SHARD) == 0


def test_xet_that_hangs_is_cut_off_and_http_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, lambda path, start: Group(FILES[path], start, until=300_000, hang=True))
    started = time.monotonic()
    # On a busy machine hf_xet needs longer than QUICK's limit until it asks at all.
    _, result = bench.fetch(policy=replace(QUICK, stall_seconds=1.5))
    assert time.monotonic() - started < 10
    assert bench.snapshot(result) == FILES
    assert [r.start for r in bench.server.requests if r.path == SHARD] == [300_000]


def test_xet_that_ends_early_or_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(path: str, start: int) -> Group:
        if path == SHARD:
            raise RuntimeError("no chunks")
        return Group(FILES[path], start, until=1000)

    asked = play(monkeypatch, make)
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES
    assert len(asked) <= 3, "each file tried Xet once"


def test_wrong_bytes_from_xet_are_fetched_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {path: data[:-1] + b"\xff" for path, data in FILES.items()}
    asked = play(monkeypatch, lambda path, start: Group(wrong[path], start))
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES
    assert len(asked) == 3, "each file tried Xet once"
    assert bench.server.sent(SHARD) == len(FILES[SHARD])


def test_real_client_whose_storage_fails(bench: Bench) -> None:
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES
    assert any(request.path == "xet" for request in bench.server.requests), "hf_xet was not used"
    assert XET_TOKEN not in bench.everything_written()


def test_real_client_whose_storage_hangs(bench: Bench) -> None:
    bench.server.faults.append(Fault(files="xet", stall_after=0))
    started = time.monotonic()
    # On a busy machine hf_xet needs longer than QUICK's limit until it asks at all.
    _, result = bench.fetch(policy=replace(QUICK, stall_seconds=1.5))
    assert time.monotonic() - started < 10
    assert bench.snapshot(result) == FILES
    assert any(request.path == "xet" for request in bench.server.requests), "hf_xet was not used"


def test_switched_off(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    assert not xet.available()
    asked = play(monkeypatch, lambda path, start: Group(FILES[path], start))
    bench.fetch()
    assert asked == []


def test_small_files_go_by_http(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xet.Xet.__init__, "__kwdefaults__", {"smallest": xet.SMALLEST_BYTES})
    asked = play(monkeypatch, lambda path, start: Group(FILES[path], start))
    bench.fetch()
    assert asked == []
