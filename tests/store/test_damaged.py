from __future__ import annotations

from pathlib import Path

import pytest
from helpers.stores import RECIPE, provenance, published, stage

from quantpipe.store.damaged import mark, marked, unmark
from quantpipe.store.manifest import Mismatch
from quantpipe.store.sealed import glance_at_sealed
from quantpipe.store.store import Store

FOUND = [Mismatch("model.safetensors", "has another hash")]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_mark_is_read_back_and_removed(store: Store) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    assert marked(place) == [] and not unmark(place)
    mark(place, FOUND)
    assert marked(place) == FOUND == glance_at_sealed(place)
    assert unmark(place)
    assert marked(place) == [] == glance_at_sealed(place)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"mismatches": [1]}', '{"mismatches": []}x'])
def test_a_mark_that_was_edited_is_still_a_mark(store: Store, text: str) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    mark(place, FOUND)
    (store.model(RECIPE) / "damaged" / f"{place.name}.json").write_text(text)
    [found] = marked(place)
    assert "is marked as damaged" in found.problem


def test_a_new_copy_takes_the_mark_away(store: Store) -> None:
    digest = published(store, "a")
    place = store.generation(RECIPE, digest)
    mark(place, FOUND)
    staging, same = stage(store, "a")
    assert same == digest
    store.seal(staging, RECIPE, digest, provenance(staging), replace=True)
    assert marked(place) == [] == glance_at_sealed(place)


def test_marks_are_no_generations(store: Store) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    mark(place, FOUND)
    assert [generation.path for generation in store.generations(RECIPE)] == [place]
