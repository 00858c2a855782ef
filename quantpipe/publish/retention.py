"""Which generations stay, how old ones go, and the way back to the one before."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from quantpipe import durable
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.console import Console
from quantpipe.errors import QuantpipeError, UsageError
from quantpipe.store.damaged import marked, unmark
from quantpipe.store.history import Move
from quantpipe.store.manifest import Mismatch
from quantpipe.store.sealed import check_sealed, glance_at_sealed, manifest_of
from quantpipe.store.store import Generation, Store
from quantpipe.store.verified import Verified
from quantpipe.text import now

Check = Callable[[Path], list[Mismatch]]
"""Looks at a sealed checkpoint: how it differs from its manifest."""


@dataclass(frozen=True)
class Rollback:
    """What a rollback did.

    Attributes:
        left: digest of the generation that was current; it is held now.
        now: digest of the generation that is current now.
        damaged: generations that were passed over, and how they differ from their manifests.
    """

    left: str
    now: str
    damaged: Mapping[str, list[Mismatch]]


def rollback(
    store: Store, recipe: str, *, reason: str | None = None, check: Check = glance_at_sealed
) -> Rollback:
    """Point at the generation that was current before the present one, and hold the one that is left.

    Held: a scheduled run of the unchanged recipe does not publish it again; see `held`. Generations that are
    held or damaged are passed over.

    Args:
        reason: why, for the history.
        check: looks at a generation before the pointer names it.

    Raises:
        UsageError: there is nothing to go back to.
        RetryableError: somebody else moved the pointer meanwhile.
    """
    pointer = store.pointer(recipe)
    order, holds, damaged = pointer.order(), _held(store, recipe), {}
    for target in reversed(order[:-1]):
        if target in holds or not store.generation(recipe, target).is_dir():
            continue
        if not (found := check(store.generation(recipe, target))):
            break
        damaged[target] = found
    else:
        raise _nothing_before(store, recipe, damaged)
    left = order[-1]
    durable.write_json(_held_path(store, recipe), {**holds, left: now()})
    try:
        pointer.move(Move.of_now(target, "rollback", previous=left, reason=reason))
    except BaseException:
        # A fault after the move leaves it held: else the rollback, repeated, would go back to it.
        with contextlib.suppress(OSError, QuantpipeError):
            if pointer.named() != target:
                release(store, recipe, left)
        raise
    return Rollback(left, target, damaged)


def hashing(store: Store, console: Console, *, jobs: int) -> Check:
    """A check that reads every byte, with a bar: minutes for some hundred gigabytes.

    One that proves damaged is marked; that an intact one was verified is kept.

    Raises:
        RetryableError: of the check: two reads of a file differed.
    """

    def check(checkpoint: Path) -> list[Mismatch]:
        if found := glance_at_sealed(checkpoint):
            return found
        try:
            size = manifest_of(checkpoint).total_bytes
        except FileNotFoundError:  # another host has removed it just now
            return glance_at_sealed(checkpoint)
        with console.progress(f"hash {checkpoint.name[:12]}", size, unit="B") as bar:
            return check_sealed(checkpoint, clock=store.clock, jobs=jobs, on_bytes=bar.advance)

    return check


def _nothing_before(store: Store, recipe: str, damaged: Mapping[str, list[Mismatch]]) -> UsageError:
    details = [f"{digest[:12]} is damaged: {found[0].line()}" for digest, found in damaged.items()]
    return UsageError(
        "there is no earlier generation to roll back to",
        where=str(store.model(recipe)),
        hint="`quantpipe status` lists the generations",
        details=details,
    )


def held(store: Store, recipe: str, digest: str) -> bool:
    """Whether somebody rolled back from this generation, so that only `--force publish` brings it back."""
    return digest in _held(store, recipe)


def release(store: Store, recipe: str, digest: str) -> None:
    """Forget that a generation was held; harmless where it was not."""
    left = {name: since for name, since in _held(store, recipe).items() if name != digest}
    if left != _held(store, recipe):
        durable.write_json(_held_path(store, recipe), left)


def expired(store: Store, recipe: str, keep: int, *, grace: float = 0.0) -> list[Generation]:
    """The generations beyond the `keep` that were current last; never the current one.

    One that is marked as damaged does not count towards `keep`. Neither does one that is held, but it stays
    until something is published after the rollback that left it: as long as it stays, a run of the
    unchanged recipe knows that its result is held.

    Args:
        keep: how many generations stay to which a rollback can go, with the current one.
        grace: seconds for which an unpublished generation is left alone: a run may be at its smoke load.
    """
    generations = store.generations(recipe)
    holds = _held(store, recipe)
    good = [
        g.digest for g in generations if g.rank is not None and g.digest not in holds and not marked(g.path)
    ]
    kept = {*good[-keep:], *_held_lately(store, recipe, holds)}
    limit = store.clock() - grace
    return [
        generation
        for generation in generations
        if not generation.current
        and generation.digest not in kept
        and (generation.rank is not None or generation.sealed < limit)
    ]


def _held_lately(store: Store, recipe: str, holds: Mapping[str, str]) -> set[str]:
    """The held generations after which nothing was published."""
    moves = store.pointer(recipe).history.moves() if holds else []
    last = {move.digest: index for index, move in enumerate(moves)}
    published = max((index for index, move in enumerate(moves) if move.action == "publish"), default=-1)
    return {digest for digest in holds if last.get(digest, published) >= published}


def remove(store: Store, recipe: str, generation: Generation) -> None:
    """Remove a generation: first its name, in one rename, then its files.

    What cannot be removed any more stays under a temporary name, which `prune` lists.

    Raises:
        ValueError: it is the current one, also if it has become so since `generation` was read.
    """
    pointer = store.pointer(recipe)
    grave = store.model(recipe) / f"{durable.TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    if generation.current or pointer.named() == generation.digest:
        raise ValueError("the current generation is never removed")
    try:
        generation.path.rename(grave)
    except FileNotFoundError:  # another host removes it
        return
    if pointer.named() == generation.digest:  # whoever moved it was faster: give it back
        with contextlib.suppress(OSError):  # a run may have sealed the same content meanwhile
            grave.rename(generation.path)
        raise ValueError("the current generation is never removed")
    shutil.rmtree(grave, ignore_errors=True)
    store.receipts_path(recipe, generation.digest).unlink(missing_ok=True)
    shutil.rmtree(store.report_folder(recipe, generation.digest), ignore_errors=True)
    unmark(generation.path)
    Verified.of_generation(generation.path).forget()


def _held_path(store: Store, recipe: str) -> Path:
    return store.model(recipe) / "held.json"


def _held(store: Store, recipe: str) -> dict[str, str]:
    """Digest to the time since when it is held, UTC."""
    try:
        return load_object(_held_path(store, recipe))
    except (OSError, ValueError):
        return {}
