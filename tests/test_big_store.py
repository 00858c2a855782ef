"""What a big store costs, in calls instead of seconds: on NFS each call that names a file is a round trip.

The seconds of 200 recipes with 1,000 generations are in docs/performance.md, by benchmarks/bench_store.py.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from helpers.big_store import Scale, build

from quantpipe.console import Console
from quantpipe.operate.budget import Budget
from quantpipe.operate.scrub import scrub
from quantpipe.pipeline import run
from quantpipe.publish import prune
from quantpipe.recipe.load import load_recipe
from quantpipe.settings import Settings
from quantpipe.store import status
from quantpipe.store.store import Store

SMALL = Scale(recipes=2, generations=3, sources=12, shards=4, runs=4)
CALLS = [(io, "open"), *((os, name) for name in ("open", "stat", "lstat", "scandir", "listdir", "readlink"))]


@contextlib.contextmanager
def counted(root: Path) -> Iterator[Counter[str]]:
    """The calls that name something below `root`, without the stats of what `os.scandir` lists."""
    calls: Counter[str] = Counter()

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            if not isinstance(path, int) and os.fspath(path).startswith(str(root)):
                calls[name] += 1
            return real(path, *arguments, **options)

        return call

    with contextlib.ExitStack() as patches:
        for module, name in CALLS:
            patches.enter_context(mock.patch.object(module, name, counting(name, getattr(module, name))))
        yield calls


def looked_at(store: Store) -> None:
    status.collect(store)


def listed(store: Store) -> None:
    prune.candidates(store, keep=2)


def planned(store: Store) -> None:
    scrub(store, Console("quiet"), budget=Budget(seconds=0.0))


def cost(folder: Path, scale: Scale, look: Callable[[Store], None]) -> int:
    store, _ = build(folder, scale)
    with counted(store.root) as calls:
        look(store)
    return calls.total()


def larger(**changes: int) -> Scale:
    return Scale(**{**vars(SMALL), **changes})


@pytest.mark.parametrize(
    ("look", "generation", "a_run", "source", "recipe"),
    [(looked_at, 5, 3, 0, 20), (listed, 8, 8, 0, 50), (planned, 12, 0, 2, 24)],
    ids=["status", "prune", "scrub"],
)
def test_calls_grow_with_what_is_there_and_not_with_the_files_of_a_generation(
    tmp_path: Path, look: Callable[[Store], None], generation: int, a_run: int, source: int, recipe: int
) -> None:
    small = cost(tmp_path / "small", SMALL, look)
    limit = generation * SMALL.generations + a_run * SMALL.runs + source * SMALL.sources + recipe
    assert small <= limit * SMALL.recipes
    assert cost(tmp_path / "shards", larger(shards=40), look) == small
    assert cost(tmp_path / "recipes", larger(recipes=6), look) <= 3 * small


def test_a_run_with_nothing_to_do_does_not_look_at_other_recipes(tmp_path: Path) -> None:
    costs = []
    for scale in (SMALL, larger(recipes=5)):
        store, path = build(tmp_path / str(scale.recipes), scale)
        recipe, settings = load_recipe(path), Settings(store=store.root)
        with counted(store.root) as calls:
            assert run(recipe, settings).status == "up to date"
        costs.append(calls.total())
    assert costs[0] == costs[1] <= 100
