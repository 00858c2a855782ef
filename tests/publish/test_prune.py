from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from helpers.commands import QUANTPIPE, environment
from helpers.receipts import fetch_receipt
from helpers.stores import point, provenance

from quantpipe.publish import prune
from quantpipe.publish.stage import UNPUBLISHED_GRACE_SECONDS
from quantpipe.store.lease import Lease
from quantpipe.store.manifest import PROVENANCE
from quantpipe.store.receipt import Receipts
from quantpipe.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def snapshot(store: Store, commit: str, *, lately: bool = False) -> Path:
    path = store.snapshot("modelscope", "Qwen/Qwen3-32B", commit)
    (path / ".quantpipe" / "partial").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"x" * 100)
    if not lately:
        age(path)
    return path


def age(path: Path) -> None:
    """Let a whole tree be older than the grace."""
    then = time.time() - UNPUBLISHED_GRACE_SECONDS - 60
    for inner in [*path.rglob("*"), path]:
        os.utime(inner, (then, then))


def generation(store: Store, letter: str, source: Path, *, published: bool = True) -> str:
    digest = letter * 64
    run = store.new_run("tiny")
    run.update_state(status="published")
    run.staging.mkdir()
    (run.staging / "weights").write_bytes(b"y" * 50)
    path = store.seal(run.staging, "tiny", digest, provenance(run.staging))
    if published:
        fetched = fetch_receipt(store.relative(source))
        point(store, digest)
        store.save_receipts("tiny", digest, Receipts.of(fetched))
        time.sleep(0.01)
    assert (path / PROVENANCE).is_file()
    return digest


def found(store: Store, keep: int = 2) -> dict[str, str]:
    return {Path(c.path).name: c.kind for c in prune.candidates(store, keep=keep)}


def test_nothing_to_remove(store: Store) -> None:
    assert prune.candidates(store, keep=2) == []
    generation(store, "a", snapshot(store, "c1"))
    assert found(store) == {}


def test_old_generations_and_snapshots_that_nothing_needs(store: Store) -> None:
    old, new = snapshot(store, "old"), snapshot(store, "new")
    first = generation(store, "a", old)
    generation(store, "b", new)
    generation(store, "c", new)
    assert found(store) == {first: "generation", "old": "snapshot"}
    assert found(store, keep=3) == {"old": "snapshot"}


def test_a_snapshot_that_an_unfinished_run_fetched_stays(store: Store) -> None:
    mine = snapshot(store, "c1")
    run = store.new_run("tiny")
    run.update_state(status="failed")
    run.save(fetch_receipt(store.relative(mine)))
    assert found(store) == {}


def test_a_snapshot_that_is_being_fetched_stays(store: Store) -> None:
    """It belongs to no receipt yet: hours of download must not be lost to a `prune --yes`."""
    growing = snapshot(store, "c1")
    assert found(store) == {"c1": "snapshot"}
    (growing / ".quantpipe" / "partial" / "model-2.safetensors").write_bytes(b"x")
    assert found(store) == {}


def test_what_lies_beside_the_snapshots_is_no_snapshot(store: Store) -> None:
    snapshot(store, "c1", lately=True)
    (store.root / "sources" / "modelscope" / "Qwen--Qwen3-32B" / "refs.json").write_text("{}")
    assert found(store) == {}


def test_an_unpublished_generation_stays_for_its_grace(store: Store) -> None:
    waiting = generation(store, "a", store.root, published=False)
    assert found(store) == {}
    age(store.generation("tiny", waiting))
    assert found(store) == {waiting: "generation"}


def test_only_the_newest_runs_stay_and_running_ones(store: Store) -> None:
    runs = [store.new_run("tiny") for _ in range(prune.KEPT_RUNS + 3)]
    for run in runs:
        run.update_state(status="published")
    runs[1].update_state(status="running")
    assert found(store) == {runs[0].id: "run", runs[2].id: "run"}


def two_days_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ctime cannot be set: let the file server's clock go on."""
    later = time.time() + 2 * 86400
    monkeypatch.setattr(Store, "clock", lambda self: later)


def test_what_a_killed_removal_left_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    generation(store, "a", snapshot(store, "c1"))
    grave = store.model("tiny") / ".tmp-0123"
    grave.mkdir()
    (grave / "weights").write_bytes(b"z" * 70)
    assert found(store) == {}, "retention on another host may be about to give it its name back"
    two_days_later(monkeypatch)
    [candidate] = prune.candidates(store, keep=2)
    assert (candidate.kind, candidate.bytes, candidate.recipe) == ("leftover", 70, "tiny")


def test_the_report_of_a_generation_that_is_gone_goes(store: Store) -> None:
    kept = generation(store, "a", snapshot(store, "c1"))
    for digest in ("0" * 64, kept):
        (store.model("tiny") / "reports" / digest).mkdir(parents=True)
    [candidate] = prune.candidates(store, keep=2)
    assert (candidate.kind, candidate.recipe, Path(candidate.path).name) == ("leftover", "tiny", "0" * 64)
    sealed_again = store.generation("tiny", "0" * 64)
    sealed_again.mkdir()
    assert prune.remove(store, [candidate]) == [], "by now it is a report of something"
    sealed_again.rmdir()
    assert prune.remove(store, [candidate]) == [candidate]
    assert [path.name for path in (store.model("tiny") / "reports").iterdir()] == [kept]


def test_a_damaged_generation_that_was_replaced_is_found_at_once(store: Store) -> None:
    (store.model("tiny") / ".tmp-damaged-0123-4567").mkdir(parents=True)
    assert found(store) == {".tmp-damaged-0123-4567": "leftover"}


def test_what_killed_writes_left_anywhere_is_swept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    generation(store, "a", snapshot(store, "c1"))
    model, run = store.model("tiny"), store.runs("tiny")[0].path
    folders = [
        *(store.root, store.root / "leases", store.root / "sources", run.parent, run, run / "receipts"),
        *(model, model / "receipts", model / "history"),
    ]
    left = []
    for number, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        left.append(folder / f".tmp-{number}")
        left[-1].write_text("{")
    (model / ".tmp-link").symlink_to("a" * 64)
    left.append(model / ".tmp-link")
    assert found(store) == {}
    two_days_later(monkeypatch)
    chosen = prune.candidates(store, keep=2)
    assert {store.absolute(c.path) for c in chosen} == set(left)
    assert prune.remove(store, chosen) == chosen
    assert prune.candidates(store, keep=2) == []
    assert store.current("tiny") is not None


def test_a_snapshot_that_a_receipt_needs_by_now_stays(store: Store) -> None:
    """Listed first, removed minutes later: a run has taken it meanwhile."""
    source = snapshot(store, "c1")
    chosen = prune.candidates(store, keep=2)
    assert [candidate.kind for candidate in chosen] == ["snapshot"]
    run = store.new_run("tiny")
    run.save(fetch_receipt(store.relative(source)))
    assert prune.remove(store, chosen) == []
    assert (source / "model.safetensors").is_file()


def test_a_snapshot_that_is_being_fetched_by_now_stays(store: Store) -> None:
    source = snapshot(store, "c1")
    chosen = prune.candidates(store, keep=2)
    with Lease.for_snapshot(source) as lease:
        age(source)
        lease.path.touch()
        os.utime(lease.path.parent, (1, 1))
        assert prune.remove(store, chosen) == []
    assert source.is_dir()


def test_no_snapshot_goes_while_a_run_has_not_said_which_one_it_takes(store: Store) -> None:
    source = snapshot(store, "c1")
    chosen = prune.candidates(store, keep=2)
    run = store.new_run("tiny")
    run.update_state(status="running")
    with Lease.for_recipe(store.root, "tiny"):
        assert prune.remove(store, chosen) == []
    age(source)
    assert prune.remove(store, chosen) == chosen  # that run was killed
    assert not source.exists()


def test_a_snapshot_whose_receipt_comes_during_the_rename_gets_its_name_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = snapshot(store, "c1")
    chosen = prune.candidates(store, keep=2)
    answers = iter([False, True])
    monkeypatch.setattr(prune, "_is_needed", lambda *_: next(answers))
    assert prune.remove(store, chosen) == []
    assert (source / "model.safetensors").is_file()
    assert list((store.root / "sources").glob(".tmp-*")) == []


def test_a_run_that_lives_by_now_stays(store: Store) -> None:
    runs = [store.new_run("tiny") for _ in range(prune.KEPT_RUNS + 1)]
    for run in runs:
        run.update_state(status="failed")
    chosen = prune.candidates(store, keep=2)
    runs[0].update_state(status="running")
    assert prune.remove(store, chosen) == []
    assert runs[0].path.is_dir()


def test_four_prunes_at_once(store: Store) -> None:
    for letter in "abcdef":
        generation(store, letter, snapshot(store, f"c{letter}"))
    for number in range(8):
        snapshot(store, f"s{number}")
    for _ in range(prune.KEPT_RUNS + 8):
        store.new_run("tiny").update_state(status="failed")
    done = [
        subprocess.Popen(
            [str(QUANTPIPE), "prune", "--yes", "--store", str(store.root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(),
        )
        for _ in range(4)
    ]
    said = [process.communicate(timeout=120)[0] for process in done]
    assert [process.returncode for process in done] == [0, 0, 0, 0], said
    assert len(store.generations("tiny")) == 2
    assert len(store.runs("tiny")) == prune.KEPT_RUNS
    assert found(store) == {}


def test_remove_takes_all_of_it_and_nothing_else(store: Store) -> None:
    old, new = snapshot(store, "old"), snapshot(store, "new")
    first = generation(store, "a", old)
    second = generation(store, "b", new)
    third = generation(store, "c", new)
    (store.model("tiny") / ".tmp-damaged-0123").mkdir()
    chosen = prune.candidates(store, keep=2)
    assert sum(candidate.bytes for candidate in chosen if candidate.kind == "snapshot") == 100
    prune.remove(store, chosen)
    assert prune.candidates(store, keep=2) == []
    assert not old.exists() and new.exists()
    assert not store.generation("tiny", first).exists()
    assert [g.digest for g in store.generations("tiny")] == [second, third]
    current = store.current("tiny")
    assert current is not None and current.name == third


def test_what_changed_since_the_listing_is_respected(store: Store) -> None:
    source = snapshot(store, "c1")
    first = generation(store, "a", source)
    generation(store, "b", source)
    generation(store, "c", source)
    gone = snapshot(store, "gone")
    chosen = prune.candidates(store, keep=2)
    assert {candidate.kind for candidate in chosen} == {"generation", "snapshot"}
    point(store, first)  # a rollback
    (gone / "model.safetensors").unlink()
    (gone / ".quantpipe" / "partial").rmdir()
    (gone / ".quantpipe").rmdir()
    gone.rmdir()  # another prune
    prune.remove(store, chosen)
    current = store.current("tiny")
    assert current is not None and current.name == first


def test_a_receipt_that_cannot_be_read_keeps_its_recipe_and_all_snapshots_and_stops_nothing_else(
    store: Store,
) -> None:
    snapshot(store, "old")
    for letter in "abc":
        generation(store, letter, snapshot(store, letter))
    other = store.new_run("other")
    for run in [other, *(store.new_run("other") for _ in range(prune.KEPT_RUNS))]:
        run.update_state(status="published")
    assert found(store).keys() == {"a" * 64, "a", "b", "old", other.id}
    store.receipts_path("tiny", "b" * 64).write_text('{"fetch": {"stage": "fetch"}}')
    said: list[str] = []
    candidates = prune.candidates(store, keep=2, on_unreadable=said.append)
    assert [Path(candidate.path).name for candidate in candidates] == [other.id]
    assert len(said) == 1 and str(store.receipts_path("tiny", "b" * 64)) in said[0]
