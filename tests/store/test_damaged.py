from __future__ import annotations

import pytest
from helpers.stores import RECIPE, provenance, published, stage

from quantpipe import durable
from quantpipe.store import seal
from quantpipe.store.damaged import mark, marked, unmark
from quantpipe.store.manifest import Mismatch
from quantpipe.store.sealed import glance_at_sealed
from quantpipe.store.store import Store

FOUND = [Mismatch("model.safetensors", "has another hash")]


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


@pytest.mark.parametrize("killed_in", ["exchange", "unmark"])
def test_killed_while_a_new_copy_takes_its_place_the_mark_is_right(
    store: Store, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    """Without the mark the damaged copy would be up to date; with it the new one would be made once more."""
    digest = published(store, "a")
    place = store.generation(RECIPE, digest)
    mark(place, FOUND)
    staging, _ = stage(store, "a")

    def killed(*_: object) -> None:
        raise SystemExit

    module = durable if killed_in == "exchange" else seal
    monkeypatch.setattr(module, killed_in, killed)
    with pytest.raises(SystemExit):
        store.seal(staging, RECIPE, digest, {**provenance(staging), "run": "the second"}, replace=True)
    assert marked(place) == (FOUND if killed_in == "exchange" else [])


def test_marks_are_no_generations(store: Store) -> None:
    place = store.generation(RECIPE, published(store, "a"))
    mark(place, FOUND)
    assert [generation.path for generation in store.generations(RECIPE)] == [place]
