"""Two recipes of one name, and a source that goes back: what a publish says about the ones before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.stores import RECIPE

from quantpipe.cli import render
from quantpipe.store import status, succession
from quantpipe.store.history import History, Move
from quantpipe.store.store import Store
from quantpipe.store.succession import LOOK_BACK, Origin, oddities

SOURCE = "huggingface:Qwen/Qwen3"


def move(recipe: str | None = "A", commit: str | None = "1", source: str | None = SOURCE) -> Move:
    """A publish by a recipe of this letter, of a commit of this digit."""
    digest = f"{recipe}{commit}".ljust(64, "0").lower()
    made = Move.of_now(digest, "publish", previous=None, run="run-1")
    made = replace(made, user="ada", host="node1")
    return replace(made, recipe=recipe and recipe * 64, source=source, commit=commit and commit * 40)


def origin(recipe: str = "A", commit: str | None = "1", *, pinned: bool = False) -> Origin:
    return Origin(recipe * 64, SOURCE, commit and commit * 40, pinned)


@pytest.mark.parametrize("before", ["", "A", "AA", "B", "AB", "ABCD", "BBB"])
def test_an_edited_recipe_is_nothing_odd(before: str) -> None:
    assert oddities([move(recipe) for recipe in before], origin("X")) == ()
    assert oddities([move("X"), move("X")], origin("X")) == ()


@pytest.mark.parametrize("before", ["AB", "ABAB", "AABB", "ACB", "AB\0"])
def test_two_recipes_that_take_turns_are_both_named(before: str) -> None:
    moves = [move(recipe if recipe != "\0" else None) for recipe in before]
    [text] = oddities(moves, origin("A"))
    assert f"recipe AAAAAAAAAAAA for {SOURCE} replaces the result of recipe BBBBBBBBBBBB" in text
    assert "by ada on node1, run run-1" in text
    assert oddities([*moves, move("A")], origin("A")) == (), "its own result is no turn"


def test_recipes_of_two_directories_may_have_one_digest() -> None:
    moves = [move(), replace(move(), source="local:/other", commit="2" * 40)]
    [text] = oddities(moves, origin())
    assert f"for {SOURCE} replaces" in text and "for local:/other" in text


@pytest.mark.parametrize("before", ["12", "1123", "1212"])
def test_a_source_that_goes_back_is_said_with_the_generation(before: str) -> None:
    moves = [move(commit=commit) for commit in before]
    [text] = oddities(moves, origin(commit="1"))
    assert f"{SOURCE} is at 111111111111 again" in text
    assert f"generation {move().digest[:12]}" in text
    assert f"after {before[-1] * 12}" in text
    assert oddities(moves, origin(commit="1", pinned=True)) == (), "the recipe names it"
    assert oddities(moves, origin(commit="9")) == (), "a branch that moves on"
    assert oddities(moves, origin(commit=None)) == (), "not known before the source was hashed"


def test_another_source_is_not_this_one_s_past() -> None:
    moves = [move(commit="1", source="local:/model"), move(commit="2")]
    assert oddities(moves, origin(commit="1")) == ()


def test_moves_of_earlier_versions_say_nothing() -> None:
    assert oddities([move(None, None, None)] * 3, origin()) == ()


def test_the_status_says_it_of_the_last_publish(tmp_path: Path) -> None:
    store = Store(tmp_path)
    history = store.pointer(RECIPE).history
    for recipe in "ABA":
        assert succession.of_last(history) == ()
        history.record(move(recipe))
    (tmp_path / "models" / RECIPE).mkdir(exist_ok=True)
    [found] = status.collect(store)
    assert len(found.warnings) == 1
    value, lines = render.statuses([found])
    assert value[0]["warnings"] == found.warnings
    assert f"  warning: {found.warnings[0]}" in lines
    history.record(move("A"))
    assert succession.of_last(history) == ()


def test_only_the_last_publishes_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = History(tmp_path / "history")
    for recipe in ["A", *"B" * LOOK_BACK]:
        history.record(move(recipe))
    assert oddities(succession.publishes(history), origin("A")) == ()
