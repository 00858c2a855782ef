"""Generations for tests of the store and of retention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.receipts import fetch_receipt
from quantpipe.store import manifest
from quantpipe.store.history import Action, Move
from quantpipe.store.receipt import Receipts
from quantpipe.store.store import Generation, Store

RECIPE = "tiny"


def stage(store: Store, content: str) -> tuple[Path, str]:
    """A staging directory and the digest of its manifest."""
    staging = store.new_run(RECIPE).staging
    (staging / "sub").mkdir(parents=True)
    (staging / "model.safetensors").write_text(content * 1000)
    (staging / "sub" / "config.json").write_text(content)
    return staging, manifest.build(staging, jobs=1).digest()


def sealed(store: Store, content: str) -> str:
    staging, digest = stage(store, content)
    store.seal(staging, RECIPE, digest, {**provenance(staging), "content": content})
    return digest


def provenance(checkpoint: Path) -> dict[str, Any]:
    """What quantpipe.json needs at least: the manifest."""
    return {"manifest": manifest.build(checkpoint, jobs=1).to_json()}


def published(store: Store, content: str) -> str:
    digest = sealed(store, content)
    publish(store, digest)
    return digest


def publish(store: Store, digest: str) -> None:
    point(store, digest)
    store.save_receipts(RECIPE, digest, Receipts.of(fetch_receipt(commit=digest)))


def point(store: Store, digest: str, action: Action = "publish") -> None:
    pointer = store.pointer(RECIPE)
    pointer.move(Move.of_now(digest, action, previous=pointer.named()))


def current(store: Store) -> str | None:
    path = store.current(RECIPE)
    return None if path is None else path.name


def digests(generations: list[Generation]) -> list[str]:
    return [generation.digest for generation in generations]
