"""Runs: how one starts and takes over the work of an unfinished one, and how its end is recorded."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Sequence

from quantpipe.console import Console
from quantpipe.errors import InterruptedRunError, QuantpipeError, RetryableError
from quantpipe.recipe.model import Recipe
from quantpipe.store import folders
from quantpipe.store.receipt import Receipts, RunDirectory
from quantpipe.store.store import Store
from quantpipe.text import now

_ENDED = ("published", "held", "taken over")


def unfinished(store: Store, recipe: str) -> RunDirectory | None:
    """The newest run of a recipe, unless it was completed."""
    begun = [run for run in store.runs(recipe) if run.state()]
    if not begun or begun[-1].state().get("status") in _ENDED:
        return None
    return begun[-1]


def begin(store: Store, recipe: Recipe) -> tuple[RunDirectory, Receipts]:
    """A fresh run directory, which takes over the work of an unfinished run, and that run's receipts.

    The staging directory moves by rename. Should that run be alive after all (the lease is no fence),
    it loses its directory and stops; it cannot write into what this run verifies.

    Killed at any instant, or stopped by a preflight that fails, the work stays within reach of the next
    run: the receipts are in the new run before run.json makes that one the newest, and `continues` leads
    to a staging directory that has not moved yet.
    """
    earlier = unfinished(store, recipe.name)
    receipts = Receipts() if earlier is None else earlier.receipts()
    began = _later_than(store.runs(recipe.name), store.clock())
    run = store.new_run(recipe.name)
    if earlier is not None:
        old, new = store.relative(earlier.path), store.relative(run.path)
        receipts = Receipts.of(*(receipt.moved(old, new) for receipt in receipts.values()))
        for receipt in receipts.values():
            run.save(receipt)
    run.update_state(
        recipe=recipe.name,
        digest=recipe.digest(),
        status="running",
        started=now(),
        began=began,
        host=platform.node(),
        pid=os.getpid(),
        continues=earlier.id if earlier else None,
    )
    if earlier is not None:
        earlier.update_state(status="taken over", by=run.id)
        _take_staging(earlier, run)
    return run, receipts


def _later_than(earlier: Sequence[RunDirectory], clock: float) -> float:
    """The file server's time, or, where its clock was set back, a little more than that of the newest run."""
    return max(clock, *(run.began() + 1e-6 for run in earlier[-1:]), 0.0)


def _take_staging(earlier: RunDirectory, run: RunDirectory) -> None:
    """Move the staging directory of `earlier`, or the one that `earlier` was about to take."""
    for source in earlier.lineage():
        if run.staging.exists():
            break
        with contextlib.suppress(FileNotFoundError):
            source.staging.rename(run.staging)
    if run.staging.is_dir():
        folders.make_private(run.staging)


@contextlib.contextmanager
def recorded(run: RunDirectory, console: Console) -> Iterator[None]:
    """Write into run.json and events.jsonl how the run ended, if an error ends it.

    Raises:
        RetryableError: another run has taken over this one.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) and (by := run.state().get("by")):
            # Whatever the error is: the cause is that its directory was taken over.
            raise RetryableError(
                f"run {by} has taken over this run",
                where=str(run.path),
                hint="wait for that run, or run again: this run's lease had expired",
                details=[str(error)],
            ) from error
        stopped = isinstance(error, KeyboardInterrupt | InterruptedRunError | RetryableError)
        described = _described(error)
        with contextlib.suppress(OSError):  # a full disk must not hide the error itself
            console.event("failed", **described)
            run.update_state(status="interrupted" if stopped else "failed", ended=now(), error=described)
        raise


def _described(error: BaseException) -> dict[str, object]:
    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError("interrupted").to_json()
    if isinstance(error, QuantpipeError):
        return error.to_json()
    return {"error": type(error).__name__, "what": str(error)}
