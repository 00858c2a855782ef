"""JSON files of a store that were edited by hand: every command reads them to a value or an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.golden import DIGEST, NAME, golden_store
from hypothesis import strategies as st

from quantpipe.fetch.hubs.offline import read_refs
from quantpipe.fetch.snapshot import Snapshot
from quantpipe.publish import prune, retention
from quantpipe.store import runs, status
from quantpipe.store.damaged import mark, marked
from quantpipe.store.history import Move
from quantpipe.store.lease import Lease
from quantpipe.store.manifest import Mismatch
from quantpipe.store.sealed import manifest_of
from quantpipe.store.store import Store
from quantpipe.store.verified import Verified

from .harness import altered, ends, fuzz, written


def written_store(folder: Path) -> Store:
    """The store of 0.1.0, with the files that later versions write as well."""
    store = golden_store(folder)
    generation = store.generation(NAME, DIGEST)
    store.pointer(NAME).move(Move.of_now(DIGEST, "publish", previous=DIGEST))
    mark(generation, [Mismatch("config.json", "has 3 bytes instead of 4")])
    (store.model(NAME) / "held.json").write_text(json.dumps({DIGEST: "2026-11-24T15:48:41Z"}))
    verified = Verified.of_generation(generation)
    verified.set("config.json", 1.0)
    verified.save()
    (store.root / "sources" / "local" / "refs.json").write_text(json.dumps({"main": "c0ffee"}))
    return store


STORE: list[Store] = []
"""Made once; each input changes one file and puts it back."""


@pytest.fixture(scope="module", autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    STORE[:] = [written_store(tmp_path_factory.mktemp("fuzz"))]
    with Lease.for_recipe(STORE[0].root, NAME):
        yield STORE[0]


@st.composite
def one_file(draw: st.DrawFn) -> tuple[Path, bytes]:
    """A JSON file of the store, and other content for it."""
    files = [path for path in STORE[0].root.rglob("*.json") if path.read_bytes()[:1] in (b"{", b"[")]
    path = draw(st.sampled_from(sorted(files)))
    content = draw(altered(json.loads(path.read_bytes())).map(written))
    return path, content


def readers(store: Store) -> list[Callable[[], Any]]:
    """What status, prune, rollback, plan and run ask of a store."""
    generation, run = store.generation(NAME, DIGEST), store.runs(NAME)[-1]
    snapshot = Snapshot(next(path for path in store.root.glob("sources/local/*/*") if path.is_dir()))
    return [
        lambda: json.dumps([found.to_json() for found in status.collect(store)]),
        lambda: prune.candidates(store, keep=2),
        lambda: runs.unfinished(store, NAME),
        lambda: list(run.lineage()),
        run.receipts,
        lambda: store.published_receipts(NAME),
        lambda: store.provenance(generation),
        lambda: manifest_of(generation),
        lambda: marked(generation),
        lambda: Verified.of_generation(generation).since(["config.json"]),
        lambda: retention.held(store, NAME, DIGEST),
        lambda: retention.expired(store, NAME, 2),
        lambda: store.pointer(NAME).order(),
        lambda: Lease.for_recipe(store.root, NAME).holder(),
        lambda: [snapshot.finished(file) for file in snapshot.files()],
        lambda: list(snapshot.receipts()),
        snapshot.manifest,
        lambda: read_refs(store.root / "sources" / "local"),
    ]


@fuzz(one_file(), share=0.5)
def test_files_edited_by_hand(changed: tuple[Path, bytes]) -> None:
    path, content = changed
    mode, before = path.stat().st_mode, path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content)
    try:
        for read in readers(STORE[0]):
            ends(read)
    finally:
        path.write_bytes(before)
        path.chmod(mode)


def test_the_store_is_right(store: Store) -> None:
    assert len(list(store.root.rglob("*.json"))) > 18
    for read in readers(store):
        read()
