"""What the store says about recipes: published generations, the running or failed last run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from quantpipe.store import succession
from quantpipe.store.damaged import marked
from quantpipe.store.lease import Lease
from quantpipe.store.sealed import verified_since
from quantpipe.store.store import Generation, Store
from quantpipe.text import utc


class _LastRunAlways(TypedDict):
    id: str
    status: str


class LastRun(_LastRunAlways, total=False):
    """The last run: its id, and what its run.json says.

    Attributes:
        id: of the run.
        status: `running`, `published`, `up to date`, `stopped`, `held`, `failed`, `interrupted`,
            `taken over`, `killed: the next run continues it`, or `unknown`.
        recipe: name of the recipe.
        digest: of the recipe.
        started: UTC time, ISO 8601.
        began: the same by the file server's clock, seconds since the epoch: runs are ordered by it.
        host: where it ran.
        pid: process id there.
        continues: id of the unfinished run whose work it took over; None where there was none.
        ended: UTC time, ISO 8601.
        error: what it failed with, as in the event `failed`.
        by: id of the run that took over its work.
    """

    recipe: str
    digest: str
    started: str
    began: float
    host: str
    pid: int
    continues: str | None
    ended: str
    error: dict[str, Any]
    by: str


@dataclass(frozen=True)
class GenerationStatus:
    """A generation as people see it.

    Attributes:
        digest: of its manifest, which is its name.
        sealed: UTC time, ISO 8601.
        state: `current`, `published earlier` or `never published`.
        verified: since when all of its files have been read back and found right, UTC; None for never.
        damaged: how it differs from its manifest, where it is marked as damaged.
    """

    digest: str
    sealed: str
    state: str
    verified: str | None = None
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecipeStatus:
    """What the store has of a recipe.

    Attributes:
        name: of the recipe.
        current: digest of the generation that the pointer names; None where nothing is published.
        generations: all that are in the store.
        run: the last run; None where there is none.
        warnings: what is odd about the last publish, seen from the ones before.
    """

    name: str
    current: str | None
    generations: tuple[GenerationStatus, ...]
    run: dict[str, Any] | None
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def collect(store: Store, name: str | None = None) -> list[RecipeStatus]:
    """The status of one recipe, or of all."""
    return [_status(store, recipe) for recipe in ([name] if name else store.recipes())]


def _status(store: Store, recipe: str) -> RecipeStatus:
    current = store.current(recipe)
    generations = tuple(_generation(generation) for generation in store.generations(recipe))
    name, run = current.name if current else None, _last_run(store, recipe)
    return RecipeStatus(recipe, name, generations, run, succession.of_last(store.pointer(recipe).history))


def _generation(generation: Generation) -> GenerationStatus:
    state = "published earlier" if generation.rank is not None else "never published"
    return GenerationStatus(
        generation.digest,
        utc(generation.sealed),
        "current" if generation.current else state,
        verified=_verified(generation),
        damaged=tuple(found.line() for found in marked(generation.path)),
    )


def _verified(generation: Generation) -> str | None:
    since = verified_since(generation.path)
    return None if since is None else utc(since)


def _last_run(store: Store, recipe: str) -> dict[str, Any] | None:
    runs = store.runs(recipe)
    if not runs:
        return None
    state = {"id": runs[-1].id, "status": "unknown", **runs[-1].state()}
    if state["status"] == "running" and not Lease.for_recipe(store.root, recipe).seems_held():
        state["status"] = "killed: the next run resumes it"
    return state
