"""What retention would remove: old generations, snapshots that nothing needs, the logs of old runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpipe.publish import UNPUBLISHED_GRACE_SECONDS
from quantpipe.store import Store

KEPT_RUNS = 10
"""Run directories kept per recipe, the newest ones."""


@dataclass(frozen=True)
class Candidate:
    """Something that may go.

    Attributes:
        kind: "generation", "snapshot" or "run".
        recipe: whose it is; None for snapshots, which recipes share.
        path: relative to the store.
        bytes: what removing it frees.
    """

    kind: str
    recipe: str | None
    path: str
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def candidates(store: Store, *, keep: int) -> list[Candidate]:
    """What may go: nothing that is current, is among the `keep` newest, or belongs to an unfinished run."""
    found = []
    for recipe in store.recipes():
        expired = store.expired(recipe, keep, grace=UNPUBLISHED_GRACE_SECONDS)
        found += [_candidate(store, "generation", recipe, generation.path) for generation in expired]
        old = [run for run in store.runs(recipe)[:-KEPT_RUNS] if run.state().get("status") != "running"]
        found += [_candidate(store, "run", recipe, run.path) for run in old]
    needed = _needed_snapshots(store)
    snapshots = [path for path in sorted(store.root.glob("sources/*/*/*")) if path not in needed]
    return found + [_candidate(store, "snapshot", None, path) for path in snapshots]


def remove(store: Store, chosen: list[Candidate]) -> None:
    """Remove what `candidates` found."""
    for candidate in chosen:
        path = store.absolute(candidate.path)
        if candidate.kind == "generation" and candidate.recipe is not None:
            generation = next(g for g in store.generations(candidate.recipe) if g.path == path)
            store.remove(candidate.recipe, generation)
        else:
            shutil.rmtree(path)


def _needed_snapshots(store: Store) -> set[Path]:
    """The snapshots of current generations and of runs that may go on."""
    needed = set()
    for recipe in store.recipes():
        receipts = [store.load_receipts(recipe).get("fetch")]
        receipts += [run.load("fetch") for run in store.runs(recipe)[-KEPT_RUNS:]]
        needed |= {store.absolute(receipt.outputs["snapshot"]) for receipt in receipts if receipt}
    return needed


def _candidate(store: Store, kind: str, recipe: str | None, path: Path) -> Candidate:
    total = sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)
    return Candidate(kind, recipe, store.relative(path), total)
