"""What the store says about recipes: published generations, the running or failed last run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from quantpipe.errors import VerificationError
from quantpipe.store.damaged import marked
from quantpipe.store.lease import Lease
from quantpipe.store.sealed import manifest_of
from quantpipe.store.store import Generation, Store
from quantpipe.store.verified import Verified
from quantpipe.text import utc


@dataclass(frozen=True)
class GenerationStatus:
    """A generation as people see it.

    Attributes:
        state: "current", "published earlier" or "never published".
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
    state = "published earlier" if generation.rank is not None else "never published"
    return GenerationStatus(
        generation.digest,
        utc(generation.sealed),
        "current" if generation.current else state,
        verified=_verified(generation),
        damaged=tuple(f"{found.path} {found.problem}" for found in marked(generation.path)),
    )


def _verified(generation: Generation) -> str | None:
    try:
        paths = manifest_of(generation.path).paths()
    except (FileNotFoundError, VerificationError):
        return None
    since = Verified.of_generation(generation.path).since(paths)
    return None if since is None else utc(since)


def _last_run(store: Store, recipe: str) -> dict[str, Any] | None:
    runs = store.runs(recipe)
    if not runs:
        return None
    state = {"id": runs[-1].id, "status": "unknown", **runs[-1].state()}
    if state["status"] == "running" and not Lease.for_recipe(store.root, recipe).seems_held():
        state["status"] = "killed: the next run resumes it"
    return state
