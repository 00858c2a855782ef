"""The generations and snapshots of a store, or of some recipes, as a scrub reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from quantpipe.fetch.snapshot import PRIVATE
from quantpipe.operate.generation_target import GenerationTarget
from quantpipe.operate.snapshot_target import SnapshotTarget
from quantpipe.operate.target import Target
from quantpipe.store.store import Store


def targets(store: Store, recipes: Sequence[str] | None) -> Iterator[Target]:
    """All generations and snapshots, or those of some recipes."""
    for recipe in store.recipes() if recipes is None else recipes:
        current = store.current(recipe)
        for path in store.generation_folders(recipe):
            target = GenerationTarget(recipe, path, current=path == current)
            if target.same():
                yield target
    snapshots = store.root.glob("sources/*/*/*") if recipes is None else _snapshots_of(store, recipes)
    for path in sorted(snapshots):
        if (path / PRIVATE / "manifest.json").is_file():
            yield SnapshotTarget(path)


def _snapshots_of(store: Store, recipes: Sequence[str]) -> set[Path]:
    found = set()
    for recipe in recipes:
        receipts = [
            store.load_receipts(recipe, path.name).get("fetch") for path in store.generation_folders(recipe)
        ]
        receipts += [run.load("fetch") for run in store.runs(recipe)]
        found |= {store.absolute(receipt.outputs.snapshot) for receipt in receipts if receipt is not None}
    return found
