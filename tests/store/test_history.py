"""The history of the pointer: an order that no clock and no copy can change."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from quantpipe.store.history import History, Move, latest_last

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def move(digest: str, previous: str | None = None) -> Move:
    return Move.of_now(digest, "publish", previous=previous, run="run-1")


def test_moves_come_back_in_order(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    assert history.digests() == []
    made = [move(A), move(B, A), Move.of_now(A, "rollback", previous=B, reason="answers worse")]
    for one in made:
        history.record(one)
    assert history.digests() == [A, B, A]
    assert history.moves() == made
    assert latest_last(history.digests()) == [B, A]


def test_times_of_files_do_not_count(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for digest in (A, B, C):
        history.record(move(digest))
    for index, path in enumerate(sorted(history.folder.iterdir(), reverse=True)):
        os.utime(path, (index, index))
    assert history.digests() == [A, B, C]


def test_two_hosts_at_once_lose_no_move(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    threads = [threading.Thread(target=history.record, args=(move(digest),)) for digest in (A, B, C) * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(history.digests()) == sorted((A, B, C) * 8)


def test_strange_files_are_passed_over(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.record(move(A))
    (history.folder / ".tmp-left").write_text("{")
    (history.folder / f"00000002-{B}-{'0' * 16}.json").write_text("{")
    (history.folder / "notes.txt").write_text("x")
    assert history.digests() == [A, B]
    assert [one.digest for one in history.moves()] == [A]


def test_the_last_moves_are_read_alone(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for digest in (A, B, C):
        history.record(move(digest))
    assert [one.digest for one in history.moves(last=2)] == [B, C]
    assert [one.digest for one in history.moves(last=9)] == [A, B, C]


def test_what_a_later_version_adds_to_a_move_is_ignored(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.record(move(A))
    [path] = history.folder.iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1}))
    assert [one.digest for one in history.moves()] == [A]


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert move(A).user == str(os.getuid())
