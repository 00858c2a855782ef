"""A store as it is after years: many recipes, each with generations of many shards, sources and runs.

All of it is written by the package's own writers; files of weights are sparse, and nothing is flushed. The
first recipe is a real one: its snapshot was really fetched, and its receipts say that it is up to date.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import yaml

from helpers.commands import ROOT, TINY_RECIPE
from helpers.receipts import (
    SMOKE_FIGURES,
    STARTED,
    fetch_receipt,
    publish_receipt,
    quantize_receipt,
    verify_receipt,
)
from quantpipe import durable
from quantpipe.console import Console
from quantpipe.fetch.hub import RemoteFile
from quantpipe.fetch.snapshot import FileReceipt, Snapshot, Stamp
from quantpipe.pipeline import Selection, run
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.model import Recipe
from quantpipe.settings import Settings
from quantpipe.stage import Context, RunDirectory
from quantpipe.store.history import Move
from quantpipe.store.manifest import FileEntry, Manifest
from quantpipe.store.outputs import FetchedFile, FetchFigures, SmokeOutput
from quantpipe.store.receipt import FetchReceipt, Receipt, Receipts
from quantpipe.store.sealed import record_verified
from quantpipe.store.store import Store

SMALL_FILES = (
    "config.json",
    "quant_model_description.json",
    "model.safetensors.index.json",
    "tokenizer.json",
)


@dataclass(frozen=True)
class Scale:
    """How big.

    Attributes:
        generations: of each recipe.
        sources: files of each snapshot.
        shards: of each generation.
        runs: of each recipe; `prune` keeps ten.
    """

    recipes: int = 200
    generations: int = 5
    sources: int = 118
    shards: int = 60
    runs: int = 10


def build(folder: Path, scale: Scale) -> tuple[Store, Path]:
    """The store in `folder`, and the file of its first recipe, which is up to date."""
    store = Store(folder / "store")
    with _without_flushing():
        path = _write_recipe(folder / "recipe", scale)
        recipe = load_recipe(path)
        run(recipe, Settings(store=store.root), Console("quiet"), Selection(last="fetch"))
        for number in range(scale.recipes):
            name = f"model-{number:03d}"
            fetched = _fetched(store, recipe, number, scale)
            for generation in range(scale.generations):
                _publish(store, name, fetched, generation, scale)
            for _ in range(scale.generations, scale.runs):
                _leave_run(store, name, Receipts.of(fetched))
        _settle(store, recipe)
    return store, path


def _write_recipe(folder: Path, scale: Scale) -> Path:
    """The tiny recipe on a source of as many files."""
    source = folder / "source"
    shutil.copytree(ROOT / "quantpipe/assets/tiny-qwen3-moe", source)
    for number in range(scale.sources - len(list(source.iterdir()))):
        (source / f"extra-{number:03d}.json").write_text("{}")
    value = yaml.safe_load(TINY_RECIPE.read_text("utf-8"))
    value.update(name="model-000")
    value["source"]["repo"] = str(source)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(value), "utf-8")
    return path


def _fetched(store: Store, recipe: Recipe, number: int, scale: Scale) -> FetchReceipt:
    """The receipt of a snapshot, which is made here, unless it is the first one."""
    if number == 0:
        found = store.runs(recipe.name)[0].load("fetch")
        assert found is not None
        return found
    commit = _sha256(f"commit {number}")[:40]
    snapshot = Snapshot(store.snapshot("huggingface", f"org/model-{number:03d}", commit))
    files = [
        RemoteFile(f"model-{i:05d}-of-{scale.sources:05d}.safetensors", 4 << 30, _sha256(f"{number} {i}"))
        for i in range(scale.sources)
    ]
    snapshot.begin(files, {"hub": "huggingface", "commit": commit})
    for file in files:
        grown = snapshot.partial / file.path
        _sparse(grown, file.size)
        snapshot.place(grown, FileReceipt(file, Stamp.of(grown), str(file.sha256)), None)
    receipt = fetch_receipt(store.relative(snapshot.path), commit=commit)
    per_file = tuple(FetchedFile(file.path, file.size, file.size, 9.0, 0, "fetched") for file in files)
    figures = FetchFigures(len(files), 1 << 39, 1 << 39, 900.0, 0, per_file)
    return Receipt("fetch", receipt.key, receipt.outputs, figures, STARTED, 900.0)


def _publish(store: Store, name: str, fetched: FetchReceipt, number: int, scale: Scale) -> None:
    """A run that published a generation, verified once since."""
    directory = _leave_run(store, name, Receipts.of(fetched), status="published")
    digest, manifest = _seal(store, directory, name, number, scale)
    receipts = Receipts.of(
        fetched,
        quantize_receipt(store.relative(directory.staging), manifest),
        verify_receipt(digest, f"models/{name}/{digest}"),
        Receipt("smoke", "k", SmokeOutput(), SMOKE_FIGURES, STARTED, 60.0),
        publish_receipt(digest),
    )
    for receipt in receipts.values():
        directory.save(receipt)
    pointer = store.pointer(name)
    pointer.move(Move.of_now(digest, "publish", previous=pointer.named(), run=directory.id))
    store.save_receipts(name, digest, receipts)
    record_verified(store.generation(name, digest), manifest, 1.7e9 + number)


def _seal(
    store: Store, directory: RunDirectory, name: str, number: int, scale: Scale
) -> tuple[str, Manifest]:
    shards = [(f"quant_model_weights-{i:05d}.safetensors", 4 << 30) for i in range(scale.shards)]
    entries = []
    for path, size in [*shards, *((path, 4096) for path in SMALL_FILES)]:
        _sparse(directory.staging / path, size)
        entries.append(FileEntry(path, size, _sha256(f"{name} {number} {path}")))
    manifest = Manifest(tuple(entries))
    digest = manifest.digest()
    store.seal(directory.staging, name, digest, {"format": 1, "manifest": manifest.to_json()})
    return digest, manifest


def _leave_run(store: Store, name: str, receipts: Receipts, *, status: str = "failed") -> RunDirectory:
    directory = store.new_run(name)
    for receipt in receipts.values():
        directory.save(receipt)
    began = store.clock()
    directory.update_state(recipe=name, status=status, started=STARTED, began=began, host="h", pid=1)
    return directory


def _settle(store: Store, recipe: Recipe) -> None:
    """Give the receipts of the first recipe's current generation the keys that a run looks for."""
    current = store.current(recipe.name)
    assert current is not None
    before = store.load_receipts(recipe.name, current.name)
    context = Context(
        recipe,
        Settings(store=store.root),
        store,
        Console("quiet"),
        RunDirectory(store.root / "runs" / "none"),
    )
    for stage in Selection().stages():
        context.receipts[stage.name] = replace(before[stage.name], key=stage.key(context))
    store.save_receipts(recipe.name, current.name, context.receipts)


def _sparse(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _without_flushing() -> Iterator[None]:
    """Tens of thousands of fsyncs would take most of the time."""
    with (
        mock.patch.object(durable, "fsync_file", lambda path: None),
        mock.patch.object(durable, "fsync_directory", lambda path: None),
        mock.patch.object(durable, "fsync_tree", lambda path: None),
    ):
        yield
