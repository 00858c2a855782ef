"""What retention would remove: old generations, snapshots that nothing needs, the logs of old runs."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpipe.durable import TEMPORARY_PREFIX
from quantpipe.publish import retention
from quantpipe.publish.stage import UNPUBLISHED_GRACE_SECONDS
from quantpipe.store.store import Store

KEPT_RUNS = 10
"""Run directories kept per recipe, the newest ones."""


@dataclass(frozen=True)
class Candidate:
    """Something that may go.

    Attributes:
        kind: "generation", "snapshot", "run", or "leftover" of a removal that was killed.
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
    """What may go: nothing that is current, is among the `keep` newest, or belongs to an unfinished run.

    A snapshot that is being fetched belongs to no receipt yet: what was changed lately stays.
    """
    found = []
    for recipe in store.recipes():
        kept = max(keep, _kept_by_recipe(store, recipe))
        expired = retention.expired(store, recipe, kept, grace=UNPUBLISHED_GRACE_SECONDS)
        found += [_candidate(store, "generation", recipe, generation.path) for generation in expired]
        old = [run for run in store.runs(recipe)[:-KEPT_RUNS] if run.state().get("status") != "running"]
        found += [_candidate(store, "run", recipe, run.path) for run in old]
        left = sorted(store.model(recipe).glob(f"{TEMPORARY_PREFIX}*"))
        left = [path for path in left if path.is_dir() and not path.is_symlink()]
        found += [_candidate(store, "leftover", recipe, path) for path in left]
    needed = _needed_snapshots(store)
    snapshots = [path for path in sorted(store.root.glob("sources/*/*/*")) if path.is_dir()]
    snapshots = [path for path in snapshots if path not in needed and not _worked_on(path)]
    return found + [_candidate(store, "snapshot", None, path) for path in snapshots]


def remove(store: Store, chosen: list[Candidate]) -> None:
    """Remove what `candidates` found, unless it is gone or has become current meanwhile."""
    for candidate in chosen:
        path = store.absolute(candidate.path)
        if candidate.kind == "generation" and candidate.recipe is not None:
            for generation in store.generations(candidate.recipe):
                if generation.path == path and not generation.current:
                    retention.remove(store, candidate.recipe, generation)
        elif path.exists():
            shutil.rmtree(path)


def _kept_by_recipe(store: Store, recipe: str) -> int:
    """How many generations the recipe itself wanted to keep when it was last published."""
    published = [receipts.publish for receipts in store.published_receipts(recipe) if "publish" in receipts]
    return published[0].figures.keep if published else 0


def _needed_snapshots(store: Store) -> set[Path]:
    """The snapshots of current generations and of runs that may go on."""
    needed = set()
    for recipe in store.recipes():
        receipts = [published.get("fetch") for published in store.published_receipts(recipe)[:1]]
        receipts += [run.load("fetch") for run in store.runs(recipe)[-KEPT_RUNS:]]
        needed |= {store.absolute(receipt.outputs.snapshot) for receipt in receipts if receipt}
    return needed


def _worked_on(snapshot: Path) -> bool:
    """Whether something was finished or begun in it lately: folders bear the time of their last change."""
    folders = [snapshot, *(path for path in snapshot.glob(".*/**/") if path.is_dir())]
    return max(folder.stat().st_mtime for folder in folders) > time.time() - UNPUBLISHED_GRACE_SECONDS


def _candidate(store: Store, kind: str, recipe: str | None, path: Path) -> Candidate:
    total = sum(Path(folder, name).lstat().st_size for folder, _, names in os.walk(path) for name in names)
    return Candidate(kind, recipe, store.relative(path), total)
