"""Which generation a report is about."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.commands import TINY_RECIPE, write_recipe
from helpers.golden import NAME
from helpers.stores import RECIPE, point, published

from quantpipe.errors import RecipeError, UsageError
from quantpipe.report.choose import find_generation, find_recipe
from quantpipe.store.history import Move
from quantpipe.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_file_a_shipped_name_and_a_name_in_the_store(store: Store, tmp_path: Path) -> None:
    published(store, "a")
    name, recipe = find_recipe(store, write_recipe(tmp_path, name="mine"))
    assert (name, recipe is not None) == ("mine", True)
    assert find_recipe(store, Path(TINY_RECIPE.stem))[0] == NAME
    assert find_recipe(store, Path(RECIPE)) == (RECIPE, None)
    with pytest.raises(RecipeError, match="no shipped recipe is named other"):
        find_recipe(store, Path("other"))


def test_the_current_one_without_anything_else(store: Store) -> None:
    first, second = published(store, "a"), published(store, "b")
    assert find_generation(store, RECIPE) == second
    point(store, first, "rollback")
    assert find_generation(store, RECIPE) == first
    with pytest.raises(UsageError, match="nothing is published of other"):
        find_generation(store, "other")


def test_by_first_digits_and_by_run(store: Store) -> None:
    first, second = published(store, "a"), published(store, "b")
    assert find_generation(store, RECIPE, first[:6]) == first
    with pytest.raises(UsageError, match="is not unique"):
        find_generation(store, RECIPE, "")
    with pytest.raises(UsageError, match="has no generation 0000"):
        find_generation(store, RECIPE, "0000")
    store.pointer(RECIPE).move(Move.of_now(first, "publish", previous=second, run="run-7"))
    assert find_generation(store, RECIPE, run="run-7") == first
    with pytest.raises(UsageError, match="has no run run-8"):
        find_generation(store, RECIPE, run="run-8")
