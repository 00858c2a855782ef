"""What retention would remove: old generations, snapshots that nothing needs, the logs of old runs.

Listing and removing are minutes apart, and other hosts work meanwhile. So everything is looked at again
before it goes, gets a temporary name in one rename, and may be gone already: any number of prunes may run
at once.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from quantpipe.durable import TEMPORARY_PREFIX
from quantpipe.errors import VerificationError
from quantpipe.publish import retention
from quantpipe.publish.stage import UNPUBLISHED_GRACE_SECONDS
from quantpipe.store.lease import Lease
from quantpipe.store.receipt import RunDirectory
from quantpipe.store.seal import DAMAGED_PREFIX
from quantpipe.store.store import REPORTS, Store

KEPT_RUNS = 10
"""Run directories kept per recipe, the newest ones."""

LEFTOVER_SECONDS = 24 * 3600.0
"""A temporary name belongs to a write or a removal in progress; a killed one's is older than that."""

_LEFTOVERS = (
    (".",),
    ("leases",),
    ("models",),
    ("runs",),
    ("sources",),
    ("models", "*"),
    ("models", "*", "receipts"),
    ("models", "*", REPORTS),
    ("models", "*", REPORTS, "*"),
    (REPORTS,),
    ("models", "*", "history"),
    ("runs", "*"),
    ("runs", "*", "*"),
    ("runs", "*", "*", "receipts"),
)
"""Folders in which quantpipe gives temporary names, from the store's root."""


@dataclass(frozen=True)
class Candidate:
    """Something that can be removed.

    Attributes:
        kind: "generation", "snapshot", "run", or "leftover" of a write or removal that was killed.
        recipe: whose it is; None for what recipes share.
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
        runs = store.runs(recipe)
        try:
            needed |= _needed_snapshots(store, recipe, runs)
            found += _expired(store, recipe, keep)
        except VerificationError as error:
            unreadable = True
            on_unreadable(
                f"keeping all generations of {recipe} and all snapshots: {error.what}: {error.where}"
            )
        old = [run for run in runs[:-KEPT_RUNS] if not _running(run)]
        found += [_candidate(store, "run", recipe, run.path) for run in old]
    found += _leftovers(store)
    return found if unreadable else found + _unneeded_snapshots(store, needed)


def remove(store: Store, chosen: list[Candidate]) -> list[Candidate]:
    """Remove what `candidates` found, unless it is gone, current or needed by now; what this call removed."""
    return [candidate for candidate in chosen if _removed(store, candidate)]


def _removed(store: Store, candidate: Candidate) -> bool:
    path = store.absolute(candidate.path)
    if candidate.kind == "generation" and candidate.recipe is not None:
        return _removed_generation(store, candidate.recipe, path)
    if candidate.kind == "snapshot":
        return _removed_snapshot(store, path)
    if candidate.kind == "run":
        return not _running(RunDirectory(path)) and _buried(path, path.parent)
    if not os.path.lexists(path):
        return False
    if path.parent.name == REPORTS and not path.name.startswith(TEMPORARY_PREFIX):
        return _is_report_of_nothing(path) and _buried(path, path.parent)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return True


def _removed_generation(store: Store, recipe: str, path: Path) -> bool:
    for generation in store.generations(recipe):
        if generation.path == path and not generation.current:
            try:
                retention.remove(store, recipe, generation)
            except ValueError:  # it has become current
                return False
            return True
    return False


def _removed_snapshot(store: Store, path: Path) -> bool:
    """Under its lease: a run that takes the snapshot meanwhile waits, and fetches what is gone again.

    A run that has just taken it holds the lease no more, and may not have written its receipt yet: as long as
    there is such a run, no snapshot goes.
    """
    if not path.is_dir() or _worked_on(store, path):
        return False
    lease = Lease.for_snapshot(path)
    try:
        if not lease.try_acquire():
            return False
    except FileNotFoundError:  # another prune was faster
        return False
    try:
        if _taking_a_snapshot(store) or _is_needed(store, path):
            return False
        return _buried(path, store.root / "sources", wanted=lambda: _is_needed(store, path))
    finally:
        lease.release()


def _buried(path: Path, folder: Path, *, wanted: Callable[[], bool] = lambda: False) -> bool:
    """Remove a directory: first its name, in one rename into `folder`, then its content.

    What cannot be removed any more stays under the temporary name, as a leftover.

    Args:
        wanted: looks, after the rename, whether somebody needs it after all: then it gets its name back.
    """
    grave = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        path.rename(grave)
    except FileNotFoundError:  # another prune was faster
        return False
    if wanted():
        with contextlib.suppress(OSError):  # a run may be fetching it again
            grave.rename(path)
        return False
    shutil.rmtree(grave, ignore_errors=True)
    return True


def _expired(store: Store, recipe: str, keep: int) -> list[Candidate]:
    """Generations beyond `keep`, or beyond what the recipe itself wanted when it was last published."""
    published = (receipts for receipts in store.published_receipts(recipe) if "publish" in receipts)
    kept = max([keep, *(receipts.publish.figures.keep for receipts in islice(published, 1))])
    expired = retention.expired(store, recipe, kept, grace=UNPUBLISHED_GRACE_SECONDS)
    return [_candidate(store, "generation", recipe, generation.path) for generation in expired]


def _running(run: RunDirectory) -> bool:
    return run.state().get("status") == "running"


def _needed_snapshots(store: Store, recipe: str, runs: Sequence[RunDirectory]) -> set[Path]:
    """The snapshots of the current generation and of runs that may be resumed."""
    receipts = [published.get("fetch") for published in islice(store.published_receipts(recipe), 1)]
    for run in runs[-KEPT_RUNS:]:
        with contextlib.suppress(FileNotFoundError):  # another prune removes it
            receipts.append(run.load("fetch"))
    return {store.absolute(receipt.outputs.snapshot) for receipt in receipts if receipt is not None}


def _is_needed(store: Store, snapshot: Path) -> bool:
    """Whether a receipt needs it; also where one cannot be read."""
    try:
        return any(
            snapshot in _needed_snapshots(store, recipe, store.runs(recipe)) for recipe in store.recipes()
        )
    except VerificationError:
        return True


def _taking_a_snapshot(store: Store) -> bool:
    """Whether there is a living run that has not written its fetch receipt."""
    for recipe in store.recipes():
        newest = store.runs(recipe)[-1:]
        unfetched = any(_running(run) and not run.receipt_path("fetch").exists() for run in newest)
        if unfetched and Lease.for_recipe(store.root, recipe).seems_held():
            return True
    return False


def _unneeded_snapshots(store: Store, needed: set[Path]) -> list[Candidate]:
    snapshots = [path for path in sorted(store.root.glob("sources/[!.]*/*/*")) if path.is_dir()]
    snapshots = [path for path in snapshots if path not in needed and not _worked_on(store, path)]
    return [_candidate(store, "snapshot", None, path) for path in snapshots]


def _worked_on(store: Store, snapshot: Path) -> bool:
    """Whether something was finished or begun in it lately: folders bear the time of their last change."""
    try:
        folders = [snapshot, *(path for path in snapshot.glob(".*/**/") if path.is_dir())]
        changed = max(folder.stat().st_mtime for folder in folders)
    except FileNotFoundError:  # right now
        return True
    return changed > store.clock() - UNPUBLISHED_GRACE_SECONDS


def _leftovers(store: Store) -> list[Candidate]:
    """What writes and removals that were killed have left, and damaged generations that were replaced."""
    limit = store.clock() - LEFTOVER_SECONDS
    found = []
    for folders in _LEFTOVERS:
        # Not pathlib's: that raises where another prune removes a folder meanwhile.
        pattern = "/".join((*folders, f"{TEMPORARY_PREFIX}*"))
        for name in sorted(glob.glob(pattern, root_dir=store.root)):  # noqa: PTH207
            path = store.root / name
            if path.name.startswith(DAMAGED_PREFIX) or _changed(path) < limit:
                recipe = folders[1:] and path.relative_to(store.root).parts[1]
                found.append(_candidate(store, "leftover", recipe or None, path))
    for path in sorted(store.root.glob(f"models/*/{REPORTS}/[!.]*")):
        if _is_report_of_nothing(path):
            found.append(_candidate(store, "leftover", path.parents[1].name, path))
    return found


def _is_report_of_nothing(path: Path) -> bool:
    """Whether it is the report of a generation that is gone: a removal was killed after the rename."""
    return path.parent.name == REPORTS and not (path.parents[1] / path.name).exists()


def _changed(path: Path) -> float:
    """When a name was given or its content changed, seconds since the epoch; a rename sets the ctime."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return float("inf")
    return max(status.st_mtime, status.st_ctime)


def _candidate(store: Store, kind: str, recipe: str | None, path: Path) -> Candidate:
    return Candidate(kind, recipe, store.relative(path), sum(_sizes(path)))


def _sizes(path: Path) -> Iterator[int]:
    """Bytes of each file; what another prune has removed meanwhile has none."""
    folders = [str(path)]
    if not path.is_dir() or path.is_symlink():
        folders = []
        with contextlib.suppress(FileNotFoundError):
            yield path.lstat().st_size
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as listed:
            for entry in listed:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.stat(follow_symlinks=False).st_size
