from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from helpers.receipts import fetch_receipt
from helpers.rot import flip
from helpers.stores import RECIPE, current, digests, point, publish, published, sealed

from quantpipe import durable
from quantpipe.console import Console
from quantpipe.errors import UsageError
from quantpipe.publish import retention
from quantpipe.store.damaged import mark, marked
from quantpipe.store.manifest import Mismatch
from quantpipe.store.receipt import Receipts
from quantpipe.store.store import REPORTS, Store
from quantpipe.store.verified import Verified


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def rolled_back(store: Store, recipe: str) -> tuple[str, str]:
    done = retention.rollback(store, recipe)
    return done.left, done.now


def test_rollback_goes_to_the_generation_published_before(store: Store) -> None:
    first, second, third = (published(store, content) for content in "abc")
    assert rolled_back(store, RECIPE) == (third, second)
    assert current(store) == second
    assert rolled_back(store, RECIPE) == (second, first)
    with pytest.raises(UsageError, match="no earlier generation"):
        retention.rollback(store, RECIPE)
    assert current(store) == first


def test_rollback_passes_over_what_was_never_published(store: Store) -> None:
    first = published(store, "a")
    sealed(store, "failed its smoke load")
    second = published(store, "b")
    assert rolled_back(store, RECIPE) == (second, first)


def test_before_counts_by_publishing_and_not_by_sealing(store: Store) -> None:
    """a, then b, then a again: what was there before is b, though a was sealed first."""
    first, second = published(store, "a"), published(store, "b")
    publish(store, first)
    assert rolled_back(store, RECIPE) == (first, second)


def test_nothing_to_roll_back_to(store: Store) -> None:
    with pytest.raises(UsageError):
        retention.rollback(store, RECIPE)
    only = published(store, "a")
    with pytest.raises(UsageError):
        retention.rollback(store, RECIPE)
    assert current(store) == only


def test_retention_keeps_the_newest_and_the_current_one(store: Store) -> None:
    first, second, third, _ = (published(store, content) for content in "abcd")
    assert digests(retention.expired(store, RECIPE, 2)) == [first, second]
    point(store, first)
    assert digests(retention.expired(store, RECIPE, 2)) == [second, third]
    assert digests(retention.expired(store, RECIPE, 4)) == []


def test_an_unpublished_generation_has_its_grace(store: Store) -> None:
    published(store, "a")
    waiting = sealed(store, "still at its smoke load")
    assert digests(retention.expired(store, RECIPE, 2, grace=3600)) == []
    assert digests(retention.expired(store, RECIPE, 2, grace=-1)) == [waiting]


def test_removing_takes_files_and_receipts(store: Store) -> None:
    old, _, new = (published(store, content) for content in "abc")
    reports = store.model(RECIPE) / REPORTS
    for digest in (old, new):
        (reports / digest).mkdir(parents=True)
    [expired] = retention.expired(store, RECIPE, 2)
    retention.remove(store, RECIPE, expired)
    assert not store.generation(RECIPE, old).exists()
    assert [path.name for path in reports.iterdir()] == [new]
    assert not store.receipts_path(RECIPE, old).exists()
    assert not list(store.model(RECIPE).glob(".tmp-*"))


def test_the_current_generation_is_never_removed(store: Store) -> None:
    old, _ = published(store, "a"), published(store, "b")
    stale = next(g for g in store.generations(RECIPE) if g.digest == old)
    point(store, old)  # somebody rolls back between listing and removing
    with pytest.raises(ValueError, match="never removed"):
        retention.remove(store, RECIPE, stale)
    assert (store.generation(RECIPE, old) / "model.safetensors").is_file()


def test_a_rollback_in_the_middle_of_a_removal_gets_its_generation_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = published(store, "a"), published(store, "b")
    victim = next(g for g in store.generations(RECIPE) if g.digest == old)
    rename = Path.rename

    def slow(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        point(store, old)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", slow)
    with pytest.raises(ValueError, match="never removed"):
        retention.remove(store, RECIPE, victim)
    assert current(store) == old
    assert (store.generation(RECIPE, old) / "model.safetensors").is_file()


def test_what_was_rolled_back_is_held_until_it_is_published_again(store: Store) -> None:
    first, second = published(store, "a"), published(store, "b")
    assert not retention.held(store, RECIPE, second)
    retention.rollback(store, RECIPE)
    assert retention.held(store, RECIPE, second)
    assert not retention.held(store, RECIPE, first)
    retention.release(store, RECIPE, second)
    assert not retention.held(store, RECIPE, second)


def test_a_bad_generation_is_not_kept_in_place_of_a_good_one(store: Store) -> None:
    """a, b (bad), back to a, then c: what a rollback from c has to find is a."""
    first, bad = published(store, "a"), published(store, "b")
    retention.rollback(store, RECIPE)
    assert digests(retention.expired(store, RECIPE, 2)) == []  # a run finds that b is held
    third = published(store, "c")
    assert digests(retention.expired(store, RECIPE, 2)) == [bad]
    assert rolled_back(store, RECIPE) == (third, first)
    with pytest.raises(UsageError, match="no earlier generation"):
        retention.rollback(store, RECIPE)


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_a_damaged_generation_is_passed_over(store: Store, damage: str) -> None:
    first, second, third = (published(store, content) for content in "abc")
    shard = store.generation(RECIPE, second) / "model.safetensors"
    shard.chmod(0o644)
    shard.unlink() if damage == "missing" else shard.write_text("b")
    done = retention.rollback(store, RECIPE)
    assert (done.left, done.now) == (third, first)
    assert [mismatch.path for mismatch in done.damaged[second]] == ["model.safetensors"]


def test_all_before_are_damaged(store: Store) -> None:
    first, second = published(store, "a"), published(store, "b")
    (store.generation(RECIPE, first) / "model.safetensors").unlink()
    with pytest.raises(UsageError) as caught:
        retention.rollback(store, RECIPE)
    assert caught.value.details == (f"{first[:12]} is damaged: model.safetensors is missing",)
    assert current(store) == second
    assert not retention.held(store, RECIPE, second)


def test_a_store_of_0_1_0_keeps_its_order(store: Store) -> None:
    """It has no history: the times of its receipts count until the pointer moves for the first time."""
    made = [sealed(store, content) for content in "abc"]
    for age, digest in enumerate(made):
        store.save_receipts(RECIPE, digest, Receipts.of(fetch_receipt(commit=digest)))
        os.utime(store.receipts_path(RECIPE, digest), (age, age))
    store.pointer(RECIPE).path.symlink_to(made[2])
    assert rolled_back(store, RECIPE) == (made[2], made[1])
    assert store.pointer(RECIPE).history.digests() == [*made, made[1]]


def test_a_store_copied_without_times_keeps_its_order(store: Store, tmp_path: Path) -> None:
    made = [published(store, content) for content in "abc"]
    shutil.copytree(store.root, tmp_path / "copy", symlinks=True, copy_function=shutil.copyfile)
    assert rolled_back(Store(tmp_path / "copy"), RECIPE) == (made[2], made[1])


def test_the_history_says_who_when_and_why(store: Store) -> None:
    first, second = published(store, "a"), published(store, "b")
    retention.rollback(store, RECIPE, reason="answers worse")
    moves = store.pointer(RECIPE).history.moves()
    assert [(m.digest, m.action, m.reason) for m in moves] == [
        (first, "publish", None),
        (second, "publish", None),
        (first, "rollback", "answers worse"),
    ]
    assert moves[-1].user and moves[-1].host and moves[-1].time.endswith("Z")


# -- damage that only hashes show ---------------------------------------------------------------------


def hashing(store: Store) -> retention.Check:
    return retention.hashing(store, Console("quiet"), jobs=2)


def test_a_rollback_that_hashes_passes_over_what_has_rotted_and_marks_it(store: Store) -> None:
    first, second, _ = (published(store, content) for content in "abc")
    flip(store.generation(RECIPE, second) / "model.safetensors")
    assert retention.rollback(store, RECIPE, check=hashing(store)).now == first
    assert current(store) == first
    assert [found.path for found in marked(store.generation(RECIPE, second))] == ["model.safetensors"]
    assert Verified.of_generation(store.generation(RECIPE, first)).time("model.safetensors") is not None


def test_a_rollback_without_hashes_still_heeds_a_mark(store: Store) -> None:
    first, second, _ = (published(store, content) for content in "abc")
    mark(store.generation(RECIPE, second), [Mismatch("model.safetensors", "rotted")])
    assert retention.rollback(store, RECIPE).now == first


def test_nothing_intact_to_roll_back_to(store: Store) -> None:
    first, second = published(store, "a"), published(store, "b")
    flip(store.generation(RECIPE, first) / "model.safetensors")
    with pytest.raises(UsageError, match="no earlier generation") as caught:
        retention.rollback(store, RECIPE, check=hashing(store))
    assert "model.safetensors has sha256" in caught.value.details[0]
    assert current(store) == second


def test_a_damaged_generation_does_not_count_towards_keep(store: Store) -> None:
    first, second, third = (published(store, content) for content in "abc")
    assert digests(retention.expired(store, RECIPE, 2)) == [first]
    mark(store.generation(RECIPE, second), [Mismatch("model.safetensors", "rotted")])
    assert digests(retention.expired(store, RECIPE, 2)) == [second]
    mark(store.generation(RECIPE, third), [Mismatch("model.safetensors", "rotted")])
    assert third not in digests(retention.expired(store, RECIPE, 2)), "never the current one"


def test_a_mark_and_times_go_with_their_generation(store: Store) -> None:
    first, _ = published(store, "a"), published(store, "b")
    [old] = [generation for generation in store.generations(RECIPE) if generation.digest == first]
    mark(old.path, [Mismatch("model.safetensors", "rotted")])
    Verified.of_generation(old.path).set("model.safetensors", 1.0)
    retention.remove(store, RECIPE, old)
    assert marked(old.path) == []
    assert not list(store.model(RECIPE).glob(f"*/{first}.json"))


def test_a_fault_after_the_move_leaves_the_bad_generation_held(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the rollback, repeated as its error says, would bring the bad generation back."""
    first, second = published(store, "a"), published(store, "b")
    flush, model = durable.fsync_directory, store.model(RECIPE)

    def failing(folder: Path) -> None:
        if folder == model and current(store) == first:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))
        flush(folder)

    monkeypatch.setattr(durable, "fsync_directory", failing)
    with pytest.raises(OSError):
        retention.rollback(store, RECIPE)
    monkeypatch.setattr(durable, "fsync_directory", flush)
    assert retention.held(store, RECIPE, second)
    with pytest.raises(UsageError, match="no earlier generation"):
        retention.rollback(store, RECIPE)
    assert current(store) == first


def test_a_temporary_link_that_cannot_be_removed_fails_no_move(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(store, "a")
    second = sealed(store, "b")

    def failing(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "unlink", failing)
    point(store, second)
    assert current(store) == second
