"""What the store says about recipes: published generations, the running or failed last run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from quantpipe.store.lease import Lease
from quantpipe.store.store import Generation, Store


@dataclass(frozen=True)
class GenerationStatus:
    """A generation as people see it; `state` is "current", "published earlier" or "never published"."""

    digest: str
    sealed: str
    state: str


@dataclass(frozen=True)
class RecipeStatus:
    """A recipe's state; `run` is run.json of its last run with its id."""

    name: str
    current: str | None
    generations: tuple[GenerationStatus, ...]
    run: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def collect(store: Store, name: str | None = None) -> list[RecipeStatus]:
    """The status of one recipe, or of all."""
    return [_status(store, recipe) for recipe in ([name] if name else store.recipes())]


def _status(store: Store, recipe: str) -> RecipeStatus:
    current = store.current(recipe)
    generations = tuple(_generation(generation) for generation in store.generations(recipe))
    return RecipeStatus(recipe, current.name if current else None, generations, _last_run(store, recipe))


def _generation(generation: Generation) -> GenerationStatus:
    sealed = datetime.fromtimestamp(generation.sealed, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    state = "published earlier" if generation.rank is not None else "never published"
    return GenerationStatus(generation.digest, sealed, "current" if generation.current else state)


def _last_run(store: Store, recipe: str) -> dict[str, Any] | None:
    runs = store.runs(recipe)
    if not runs:
        return None
    state = {"id": runs[-1].id, "status": "unknown", **runs[-1].state()}
    if state["status"] == "running" and not Lease.for_recipe(store.root, recipe).seems_held():
        state["status"] = "killed: the next run resumes it"
    return state
