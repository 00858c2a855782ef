from __future__ import annotations

from helpers.receipts import fetch_receipt
from helpers.stores import RECIPE, point, provenance, published

from quantpipe.cli import render
from quantpipe.store import status
from quantpipe.store.damaged import mark
from quantpipe.store.lease import Lease
from quantpipe.store.manifest import Mismatch
from quantpipe.store.receipt import Receipts
from quantpipe.store.sealed import manifest_of, record_verified
from quantpipe.store.store import Store
from quantpipe.store.verified import Verified


def generation(store: Store, letter: str, *, published: bool) -> str:
    digest = letter * 64
    staging = store.new_run("old").staging
    staging.mkdir()
    store.seal(staging, "tiny", digest, provenance(staging))
    if published:
        point(store, digest)
        store.save_receipts("tiny", digest, Receipts.of(fetch_receipt()))
    return digest


def test_an_empty_store(store: Store) -> None:
    assert status.collect(store) == []
    assert render.statuses([]) == ([], ["the store is empty"])


def test_what_is_current_and_what_else_is_there(store: Store) -> None:
    old, new = generation(store, "a", published=True), generation(store, "b", published=True)
    failed = generation(store, "c", published=False)
    [found] = status.collect(store, "tiny")
    assert found.current == new
    assert {g.digest: g.state for g in found.generations} == {
        old: "published earlier",
        new: "current",
        failed: "never published",
    }
    value, lines = render.statuses([found])
    assert value[0]["current"] == new
    assert lines[0] == f"tiny: current {new[:12]}"
    assert len(lines) == 4


def test_the_failed_run_and_why(store: Store) -> None:
    store.new_run("tiny").update_state(status="published")
    run = store.new_run("tiny")
    run.update_state(status="failed", error={"what": "it broke", "where": "a/log", "hint": "fix it"})
    [found] = status.collect(store, "tiny")
    _, lines = render.statuses([found])
    assert lines == [
        "tiny: nothing published",
        f"  last run {run.id}: failed",
        "    it broke (a/log)",
        "    next: fix it",
    ]


def test_a_run_with_a_live_holder_is_running(store: Store) -> None:
    run = store.new_run("tiny")
    run.update_state(status="running")
    with Lease.for_recipe(store.root, "tiny", run=run.id):
        [found] = status.collect(store, "tiny")
    assert found.run is not None
    assert found.run["status"] == "running"


def test_a_run_without_a_holder_was_killed(store: Store) -> None:
    store.new_run("tiny").update_state(status="running")
    [found] = status.collect(store, "tiny")
    assert found.run is not None
    assert found.run["status"].startswith("killed")


def test_a_run_that_never_wrote_its_state(store: Store) -> None:
    store.new_run("tiny")
    [found] = status.collect(store, "tiny")
    assert found.run is not None
    assert found.run["status"] == "unknown"


def test_all_recipes_or_one(store: Store) -> None:
    store.new_run("a")
    store.new_run("b")
    assert [found.name for found in status.collect(store)] == ["a", "b"]
    assert [found.name for found in status.collect(store, "b")] == ["b"]


def test_since_when_a_generation_is_known_to_be_right_and_what_is_damaged(store: Store) -> None:
    old, new = published(store, "a"), published(store, "b")
    Verified.of_generation(store.generation(RECIPE, old)).set("model.safetensors", 1.0)
    record_verified(store.generation(RECIPE, old), manifest_of(store.generation(RECIPE, old)), 86400.0)
    mark(store.generation(RECIPE, new), [Mismatch("model.safetensors", "has another hash")])
    [found] = status.collect(store, RECIPE)
    first, second = found.generations
    assert (first.verified, first.damaged) == ("1970-01-02T00:00:00Z", ())
    assert (second.verified, second.damaged) == (None, ("model.safetensors has another hash",))
    value, lines = render.statuses([found])
    assert value[0]["generations"][0]["verified"] == "1970-01-02T00:00:00Z"
    assert "verified" in lines[1] and lines[1].partition("verified ")[2].split()[1] == "d"
    assert "never verified" in lines[2]
    assert lines[3] == "    damaged: model.safetensors has another hash"
