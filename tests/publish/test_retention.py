from __future__ import annotations

from pathlib import Path

import pytest
from helpers.stores import RECIPE, current, digests, publish, published, sealed

from quantpipe.errors import UsageError
from quantpipe.publish import retention
from quantpipe.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_rollback_goes_to_the_generation_published_before(store: Store) -> None:
    first, second, third = (published(store, content) for content in "abc")
    assert retention.rollback(store, RECIPE) == (third, second)
    assert current(store) == second
    assert retention.rollback(store, RECIPE) == (second, first)
    with pytest.raises(UsageError, match="no earlier generation"):
        retention.rollback(store, RECIPE)
    assert current(store) == first


def test_rollback_passes_over_what_was_never_published(store: Store) -> None:
    first = published(store, "a")
    sealed(store, "failed its smoke load")
    second = published(store, "b")
    assert retention.rollback(store, RECIPE) == (second, first)


def test_before_counts_by_publishing_and_not_by_sealing(store: Store) -> None:
    """a, then b, then a again: what was there before is b, though a was sealed first."""
    first, second = published(store, "a"), published(store, "b")
    publish(store, first)
    assert retention.rollback(store, RECIPE) == (first, second)


def test_nothing_to_roll_back_to(store: Store) -> None:
    with pytest.raises(UsageError):
        retention.rollback(store, RECIPE)
    only = published(store, "a")
    with pytest.raises(UsageError):
        retention.rollback(store, RECIPE)
    assert current(store) == only


def test_retention_keeps_the_newest_and_the_current_one(store: Store) -> None:
    first, second, third, fourth = (published(store, content) for content in "abcd")
    assert digests(retention.expired(store, RECIPE, 2)) == [first, second]
    store.point(RECIPE, first)
    assert digests(retention.expired(store, RECIPE, 2)) == [second]
    assert digests(retention.expired(store, RECIPE, 4)) == []
    assert {third, fourth}.isdisjoint(digests(retention.expired(store, RECIPE, 2)))


def test_an_unpublished_generation_has_its_grace(store: Store) -> None:
    published(store, "a")
    waiting = sealed(store, "still at its smoke load")
    assert digests(retention.expired(store, RECIPE, 2, grace=3600)) == []
    assert digests(retention.expired(store, RECIPE, 2, grace=-1)) == [waiting]


def test_removing_takes_files_and_receipts(store: Store) -> None:
    old, _, _ = (published(store, content) for content in "abc")
    [expired] = retention.expired(store, RECIPE, 2)
    retention.remove(store, RECIPE, expired)
    assert not store.generation(RECIPE, old).exists()
    assert not store.receipts_path(RECIPE, old).exists()
    assert not list(store.model(RECIPE).glob(".tmp-*"))


def test_the_current_generation_is_never_removed(store: Store) -> None:
    old, _ = published(store, "a"), published(store, "b")
    stale = next(g for g in store.generations(RECIPE) if g.digest == old)
    store.point(RECIPE, old)  # somebody rolls back between listing and removing
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
        store.point(RECIPE, old)
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
