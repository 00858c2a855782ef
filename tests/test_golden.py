"""Today's code on the store that 0.1.0 wrote: see golden/README.md."""

from __future__ import annotations

import copy
import io
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.golden import DIGEST, GOLDEN, NAME, golden_recipe, golden_store, written

from quantpipe import pipeline
from quantpipe.console import Console
from quantpipe.errors import VerificationError
from quantpipe.publish import prune
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.model import Recipe
from quantpipe.settings import Settings
from quantpipe.store import status
from quantpipe.store.receipt import Receipts, receipt_from_json
from quantpipe.store.store import Store

RUN_RECEIPTS = sorted(GOLDEN.glob("store/runs/*/*/receipts/*.json"))
PUBLISHED = GOLDEN / "store" / "models" / NAME / "receipts" / f"{DIGEST}.json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return golden_store(tmp_path)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(golden_recipe(tmp_path))


def settings(store: Store) -> Settings:
    return Settings(store=store.root)


def console() -> Console:
    return Console("quiet", stream=io.StringIO())


def tree(root: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


# -- receipts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RUN_RECEIPTS, ids=lambda path: path.stem)
def test_a_receipt_is_written_as_it_was_read(path: Path) -> None:
    text = path.read_text("utf-8")
    receipt = receipt_from_json(json.loads(text), where=str(path), stage=path.stem)
    assert written(receipt.to_json()) == text


def test_the_receipts_of_a_generation_are_written_as_they_were_read() -> None:
    text = PUBLISHED.read_text("utf-8")
    receipts = Receipts.from_json(json.loads(text), where=str(PUBLISHED))
    assert written(receipts.to_json()) == text
    assert receipts.verify.outputs.digest == receipts.publish.outputs.digest == DIGEST
    assert receipts.quantize.outputs.manifest.digest() == DIGEST
    assert receipts.fetch.figures.files == len(receipts.fetch.figures.per_file) == 9


def spoiled(value: Any) -> Iterator[tuple[str, Any]]:
    """Copies in which one key, of the receipt or of its outputs or figures, is missing or of another type."""
    for place in ("", "outputs", "figures"):
        inner = value[place] if place else value
        for key in inner:
            for bad in ("missing", None, 7, "x", [], [1], {}, {"files": [1]}, True, "../../etc", "/etc"):
                changed = copy.deepcopy(value)
                target = changed[place] if place else changed
                if bad == "missing":
                    del target[key]
                else:
                    target[key] = bad
                yield f"{place}.{key} {bad!r}", changed


@pytest.mark.parametrize("path", RUN_RECEIPTS, ids=lambda path: path.stem)
def test_what_was_edited_by_hand_is_a_receipt_or_an_error_that_names_the_file(path: Path) -> None:
    """Never a KeyError or a TypeError, also not later: what is read can be written."""
    refused = 0
    for what, value in spoiled(json.loads(path.read_text("utf-8"))):
        try:
            receipt = receipt_from_json(value, where=str(path), stage=path.stem)
        except VerificationError as error:
            refused += 1
            assert error.where == str(path), what
            assert error.hint, what
        else:
            assert written(receipt.to_json())
    assert refused > 40


# -- the store ----------------------------------------------------------------------------------------


def test_a_refresh_has_nothing_to_do(store: Store, recipe: Recipe) -> None:
    before = tree(store.root)
    result = pipeline.run(recipe, settings(store), console(), pipeline.Selection())
    assert (result.status, result.run) == ("up to date", None)
    assert tree(store.root) == before


def test_a_plan_reuses_every_stage_and_adds_nothing(store: Store, recipe: Recipe) -> None:
    plans, obstacles = pipeline.plan(recipe, settings(store), console())
    assert [plan.action for plan in plans] == ["reuse"] * 5
    assert sum(plan.disk_bytes for plan in plans) == 0
    assert obstacles == []


def test_status_and_prune_read_it(store: Store) -> None:
    [found] = status.collect(store)
    assert (found.name, found.current) == (NAME, DIGEST)
    assert found.run is not None and found.run["status"] == "published"
    assert prune.candidates(store, keep=2) == []


@pytest.mark.parametrize("outputs", ["missing", {}, [], {"snapshot": 7}, None])
@pytest.mark.parametrize("do", ["run", "plan"])
def test_a_generation_whose_receipts_were_edited_is_an_error_that_names_the_file(
    store: Store, recipe: Recipe, outputs: Any, do: str
) -> None:
    path = store.receipts_path(NAME, DIGEST)
    value = json.loads(path.read_text())
    value["fetch"] = {key: item for key, item in value["fetch"].items() if key != "outputs"}
    if outputs != "missing":
        value["fetch"]["outputs"] = outputs
    path.write_text(written(value))
    with pytest.raises(VerificationError, match="not a receipt") as caught:
        if do == "run":
            pipeline.run(recipe, settings(store), console(), pipeline.Selection())
        else:
            pipeline.plan(recipe, settings(store), console())
    assert caught.value.where == str(path)


@pytest.mark.parametrize("files", [[1], {"a": 1}, 7, [{"path": 7, "size": 1}], [{"path": "a"}], [{"odd": 1}]])
def test_a_source_manifest_that_was_edited_is_an_error_that_names_the_file(
    store: Store, recipe: Recipe, files: Any
) -> None:
    path = next(store.root.glob("sources/local/*/*/.quantpipe/manifest.json"))
    path.write_text(written({**json.loads(path.read_text()), "files": files, "listed": files}))
    fetched = pipeline.Selection(last="fetch")
    for do in (pipeline.plan, partial(pipeline.run, selection=fetched)):
        with pytest.raises(VerificationError, match="not a source manifest") as caught:
            do(recipe, settings(store), console())
        assert caught.value.where == str(path)


def test_receipts_of_a_later_version_are_read(store: Store, recipe: Recipe) -> None:
    """With a stage, an output and a figure that this version does not know."""
    path = store.receipts_path(NAME, DIGEST)
    stamps = path.stat()
    value = json.loads(path.read_text())
    value["quality"] = {"stage": "quality", "anything": 1}
    value["fetch"]["outputs"]["more"] = value["fetch"]["figures"]["more"] = [1]
    path.write_text(written(value))
    os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    assert pipeline.run(recipe, settings(store), console(), pipeline.Selection()).status == "up to date"
