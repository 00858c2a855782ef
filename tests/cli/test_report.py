"""`quantpipe report` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.commands import quantpipe
from helpers.golden import DIGEST, NAME
from helpers.reports import SECOND, reported_store

from quantpipe.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return reported_store(tmp_path)[0]


def test_it_says_whether_to_serve_and_writes_three_files(store: Store) -> None:
    done = quantpipe("report", NAME, "--store", store.root)
    assert (done.status, done.stderr) == (0, "")
    assert "Look at 3 points before serving it" in done.stdout and "caution: " in done.stdout
    folder = store.model(NAME) / "reports" / SECOND
    assert str(folder / "report.html") in done.stdout
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "report.md"}
    assert folder.stat().st_mode & 0o777 == 0o755
    found = quantpipe("report", NAME, "--store", store.root, "--json").json()
    assert found == json.loads((folder / "report.json").read_text())
    assert found["quality"]["kl_mean"] == 0.0187


def test_json_writes_nothing_unless_told_where(store: Store, tmp_path: Path) -> None:
    arguments = ("report", NAME, "--store", store.root, "--generation", SECOND[:6], "--json")
    assert quantpipe(*arguments).json()["digest"] == SECOND
    assert not (store.model(NAME) / "reports" / SECOND).exists()
    quantpipe(*arguments, "--output", tmp_path / "out")
    assert (tmp_path / "out" / "report.html").is_file()
    assert not (store.model(NAME) / "reports" / SECOND).exists()


def test_the_whole_store(store: Store) -> None:
    done = quantpipe("report", "--store", store.root)
    assert f"{NAME}: 2 published generations" in done.stdout
    assert (store.root / "reports" / "index.html").is_file()


def test_what_is_not_there_is_a_usage_error(store: Store) -> None:
    for arguments, said in (
        (("report", "none"), "no shipped recipe is named none"),
        (("report", NAME, "--generation", "ffff"), "the store has no generation ffff"),
        (("report", NAME, "--generation", DIGEST, "--run", "x"), "exclude each other"),
    ):
        done = quantpipe(*arguments, "--store", store.root)
        assert done.status == 2 and said in done.stderr
