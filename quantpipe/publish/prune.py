"""What retention would remove: old generations, snapshots that nothing needs, the logs of old runs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpipe.durable import TEMPORARY_PREFIX
from quantpipe.errors import VerificationError
from quantpipe.publish import retention
from quantpipe.publish.stage import UNPUBLISHED_GRACE_SECONDS
from quantpipe.store.store import Store

KEPT_RUNS = 10
"""Run directories kept per recipe, the newest ones."""


@dataclass(frozen=True)
class Candidate:
    """Something that can be removed.

    Attributes:
        kind: "generation", "snapshot", "run", or "leftover" of a removal that was killed.
        recipe: its recipe; None for snapshots, which recipes share.
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


def candidates(
    store: Store, *, keep: int, on_unreadable: Callable[[str], object] = lambda message: None
) -> list[Candidate]:
    """What can be removed: nothing current, nothing among the `keep` newest, nothing of an unfinished run.

    A snapshot that is being fetched belongs to no receipt yet: recent changes are kept. What an unreadable
    receipt refers to is unknown: the generations of its recipe are kept, and all snapshots.

    Args:
        on_unreadable: receives a message for each recipe whose receipts, or whose pointer, cannot be read.
    """
    found = []
    needed: set[Path] = set()
    unreadable = False
    for recipe in store.recipes():
        try:
            needed |= _needed_snapshots(store, recipe)
            found += _expired(store, recipe, keep)
        except VerificationError as error:
            unreadable = True
            on_unreadable(
                f"keeping all generations of {recipe} and all snapshots: {error.what}: {error.where}"
            )
        old = [run for run in store.runs(recipe)[:-KEPT_RUNS] if run.state().get("status") != "running"]
        found += [_candidate(store, "run", recipe, run.path) for run in old]
        left = sorted(store.model(recipe).glob(f"{TEMPORARY_PREFIX}*"))
        left = [path for path in left if path.is_dir() and not path.is_symlink()]
        found += [_candidate(store, "leftover", recipe, path) for path in left]
    return found if unreadable else found + _unneeded_snapshots(store, needed)


def remove(store: Store, chosen: list[Candidate]) -> None:
    """Remove what `candidates` found, unless it is gone or has become current in the meantime."""
    for candidate in chosen:
        path = store.absolute(candidate.path)
        if candidate.kind == "generation" and candidate.recipe is not None:
            for generation in store.generations(candidate.recipe):
                if generation.path == path and not generation.current:
                    retention.remove(store, candidate.recipe, generation)
        elif path.exists():
            shutil.rmtree(path)


def _expired(store: Store, recipe: str, keep: int) -> list[Candidate]:
    """Generations beyond `keep`, or beyond what the recipe itself wanted when it was last published."""
    published = [receipts for receipts in store.published_receipts(recipe) if "publish" in receipts]
    kept = max(keep, published[0].publish.figures.keep if published else 0)
    expired = retention.expired(store, recipe, kept, grace=UNPUBLISHED_GRACE_SECONDS)
    return [_candidate(store, "generation", recipe, generation.path) for generation in expired]


def _needed_snapshots(store: Store, recipe: str) -> set[Path]:
    """The snapshots of the current generation and of runs that may be resumed."""
    receipts = [published.get("fetch") for published in store.published_receipts(recipe)[:1]]
    receipts += [run.load("fetch") for run in store.runs(recipe)[-KEPT_RUNS:]]
    return {store.absolute(receipt.outputs.snapshot) for receipt in receipts if receipt is not None}


def _unneeded_snapshots(store: Store, needed: set[Path]) -> list[Candidate]:
    snapshots = [path for path in sorted(store.root.glob("sources/*/*/*")) if path.is_dir()]
    snapshots = [path for path in snapshots if path not in needed and not _worked_on(path)]
    return [_candidate(store, "snapshot", None, path) for path in snapshots]


def _worked_on(snapshot: Path) -> bool:
    """Whether something was finished or begun in it lately: folders have the time of their last change."""
    folders = [snapshot, *(path for path in snapshot.glob(".*/**/") if path.is_dir())]
    return max(folder.stat().st_mtime for folder in folders) > time.time() - UNPUBLISHED_GRACE_SECONDS


def _candidate(store: Store, kind: str, recipe: str | None, path: Path) -> Candidate:
    total = sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)
    return Candidate(kind, recipe, store.relative(path), total)
