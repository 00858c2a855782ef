"""Which generations stay, how old ones go, and the way back to the one before."""

from __future__ import annotations

import json
import secrets
import shutil
import time
from pathlib import Path

from quantpipe import durable
from quantpipe.errors import UsageError
from quantpipe.store.store import Generation, Store
from quantpipe.text import now


def rollback(store: Store, recipe: str) -> tuple[str, str]:
    """Point at the generation that was published before the current one, and hold the one that is left.

    Held: a scheduled run of the unchanged recipe does not publish it again; see `held`.

    Returns:
        The digests of the generation that was current and of the one that is now.

    Raises:
        UsageError: there is nothing to go back to.
    """
    published = [g for g in store.generations(recipe) if g.published is not None]
    position = next((i for i, generation in enumerate(published) if generation.current), None)
    if not position:
        raise UsageError(
            "there is no earlier generation to go back to",
            where=str(store.model(recipe)),
            hint="`quantpipe status` lists the generations",
        )
    left, target = published[position].digest, published[position - 1].digest
    durable.write_json(_held_path(store, recipe), {**_held(store, recipe), left: now()})
    release(store, recipe, target)
    store.point(recipe, target)
    return left, target


def held(store: Store, recipe: str, digest: str) -> bool:
    """Whether somebody rolled back from this generation, so that only `--force publish` brings it back."""
    return digest in _held(store, recipe)


def release(store: Store, recipe: str, digest: str) -> None:
    """Forget that a generation was held; harmless where it was not."""
    left = {name: since for name, since in _held(store, recipe).items() if name != digest}
    if left != _held(store, recipe):
        durable.write_json(_held_path(store, recipe), left)


def expired(store: Store, recipe: str, keep: int, *, grace: float = 0.0) -> list[Generation]:
    """The generations beyond the `keep` newest published ones; never the current one.

    Args:
        keep: how many published generations stay.
        grace: seconds for which an unpublished generation is left alone: a run may be at its smoke load.
    """
    generations = store.generations(recipe)
    newest = [generation for generation in generations if generation.published is not None][-keep:]
    limit = time.time() - grace
    return [
        generation
        for generation in generations
        if not generation.current
        and generation not in newest
        and (generation.published is not None or generation.sealed < limit)
    ]


def remove(store: Store, recipe: str, generation: Generation) -> None:
    """Remove a generation: first its name, in one rename, then its files.

    Raises:
        ValueError: it is the current one, also if it has become so since `generation` was read.
    """
    grave = store.model(recipe) / f"{durable.TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    if generation.current or store.current(recipe) == generation.path:
        raise ValueError("the current generation is never removed")
    generation.path.rename(grave)
    if _names(store.pointer(recipe), generation.digest):
        # A rollback on another host was faster: give it back.
        grave.rename(generation.path)
        raise ValueError("the current generation is never removed")
    shutil.rmtree(grave)
    store.receipts_path(recipe, generation.digest).unlink(missing_ok=True)


def _names(pointer: Path, digest: str) -> bool:
    """Whether the pointer names this generation, be it there or not."""
    return pointer.is_symlink() and str(pointer.readlink()) == digest


def _held_path(store: Store, recipe: str) -> Path:
    return store.model(recipe) / "held.json"


def _held(store: Store, recipe: str) -> dict[str, str]:
    """Digest to the time since when it is held, UTC."""
    try:
        value = json.loads(_held_path(store, recipe).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
