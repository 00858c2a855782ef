"""`quantpipe scrub` and `status` as a user sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.commands import quantpipe
from helpers.rot import flip
from helpers.stores import RECIPE, published

from quantpipe.cli import render
from quantpipe.errors import RetryableError
from quantpipe.operate.report import Amount, ScrubReport
from quantpipe.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_clean_then_damaged_then_still_damaged(store: Store) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    clean = quantpipe("scrub", "--store", store.root)
    assert (clean.status, clean.stderr) == (0, "")
    assert "read 2 files, 1001 B" in clean.stdout and "nothing damaged in 1 generations" in clean.stdout
    flip(place / "model.safetensors")
    found = quantpipe("scrub", "--store", store.root)
    assert found.status == 3
    assert "model.safetensors has sha256" in found.stdout and "next: marked" in found.stdout
    again = quantpipe("scrub", "--store", store.root, "--older-than", "7d", "--budget", "1h", "--json")
    assert again.status == 3
    assert again.json()["status"] == "damaged"
    assert again.json()["differences"][0]["directory"] == f"models/{RECIPE}/{place.name}"
    shown = quantpipe("status", "--store", store.root, "--json").json()
    assert shown[0]["generations"][0]["verified"] is not None
    assert "sha256" in shown[0]["generations"][0]["damaged"][0]


def test_a_budget_that_ends_is_no_failure(store: Store) -> None:
    published(store, "a")
    done = quantpipe("scrub", "--store", store.root, "--budget", "10B", "--budget", "5m")
    assert done.status == 0
    assert "left by the budget: 1 files" in done.stdout


@pytest.mark.parametrize("arguments", [("--budget", "soon"), ("--older-than", "10GiB")])
def test_what_is_no_amount_is_a_usage_error(store: Store, arguments: tuple[str, str]) -> None:
    done = quantpipe("scrub", "--store", store.root, *arguments)
    assert done.status == 2
    assert arguments[1] in done.stderr


def test_what_cannot_be_read_is_listed() -> None:
    report = ScrubReport(read=Amount(1, 1024), unread=[RetryableError("the storage failed", where="a/shard")])
    assert report.status == "unread"
    value, lines = render.scrubbed(report)
    assert value["unread"][0]["exit_code"] == 75 and not value["complete"]
    assert lines == ["read 1 files, 1.0 KiB in 0.0 s", "  cannot be read: the storage failed (a/shard)"]
