"""Runs: how one begins and takes over what an unfinished one has got, and how its end is recorded."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace

from quantpipe.console import Console, now
from quantpipe.errors import (
    InterruptedRunError,
    PreflightError,
    QuantpipeError,
    RetryableError,
    StorageFullError,
)
from quantpipe.recipe import Recipe
from quantpipe.stage import Receipt, RunDirectory
from quantpipe.store import Store

_ENDED = ("published", "taken over")


def unfinished(store: Store, recipe: str) -> RunDirectory | None:
    """The newest run of a recipe, unless it got to its end."""
    runs = store.runs(recipe)
    if not runs or runs[-1].state().get("status") in _ENDED:
        return None
    return runs[-1]


def receipts_of(run: RunDirectory | None, stages: Sequence[str]) -> dict[str, Receipt]:
    """The receipts that a run has left, by stage."""
    found = {} if run is None else {name: run.load(name) for name in stages}
    return {name: receipt for name, receipt in found.items() if receipt is not None}


def begin(store: Store, recipe: Recipe, stages: Sequence[str]) -> tuple[RunDirectory, dict[str, Receipt]]:
    """A fresh run directory, which takes over what an unfinished run has got, and that run's receipts.

    The staging directory moves by rename. Should that run be alive after all (the lease is no fence),
    it loses its directory and stops; it cannot write into what this run verifies.
    """
    earlier = unfinished(store, recipe.name)
    run = store.new_run(recipe.name)
    run.update_state(
        recipe=recipe.name,
        digest=recipe.digest(),
        status="running",
        started=now(),
        host=platform.node(),
        pid=os.getpid(),
    )
    if earlier is None:
        return run, {}
    earlier.update_state(status="taken over", by=run.id)
    with contextlib.suppress(FileNotFoundError):
        earlier.staging.rename(run.staging)
    old, new = store.relative(earlier.path), store.relative(run.path)
    receipts = receipts_of(earlier, stages)
    return run, {name: _moved(receipt, old, new) for name, receipt in receipts.items()}


def _moved(receipt: Receipt, old: str, new: str) -> Receipt:
    """The receipt with paths inside the run directory `old` turned into those inside `new`."""
    outputs = json.loads(json.dumps(receipt.outputs).replace(f'"{old}/', f'"{new}/'))
    return replace(receipt, outputs=outputs)


@contextlib.contextmanager
def recorded(run: RunDirectory, console: Console) -> Iterator[None]:
    """Write into run.json and events.jsonl how the run ended, if an error ends it.

    Raises:
        RetryableError: another run has taken this one's work over.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, FileNotFoundError) and (by := run.state().get("by")):
            raise RetryableError(
                f"run {by} has taken this run's work over",
                where=str(run.path),
                hint="wait for that run, or run again: the lease had lapsed",
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


@contextlib.contextmanager
def storage_faults(store: Store) -> Iterator[None]:
    """Say of a full or read-only store that it is one, wherever it was met.

    Raises:
        StorageFullError: no space, or no quota.
        PreflightError: the store cannot be written.
    """
    try:
        yield
    except OSError as error:
        where = str(error.filename or store.root)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                os.strerror(error.errno),
                where=where,
                hint="free space (`quantpipe prune` lists what may go) and run again: finished work is kept",
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise PreflightError(
                f"the store cannot be written: {os.strerror(error.errno)}",
                where=where,
                hint="check mount options and owner, or name another store with --store",
            ) from error
        raise
