"""At the end of a run: a report is kept with the generation, and one that fails is only a warning."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from helpers.golden import DIGEST, NAME, golden_recipe, golden_store

from quantpipe import pipeline
from quantpipe.console import Console
from quantpipe.recipe.load import load_recipe
from quantpipe.report import gather
from quantpipe.settings import Settings
from quantpipe.stage import Context


def context(folder: Path, said: io.StringIO) -> Context:
    store, recipe = golden_store(folder), load_recipe(golden_recipe(folder))
    settings = Settings(store=store.root)
    receipts = store.load_receipts(NAME, DIGEST)
    return Context(recipe, settings, store, Console(stream=said), store.runs(NAME)[-1], receipts)


def test_the_report_is_kept_with_the_generation(tmp_path: Path) -> None:
    said = io.StringIO()
    found = context(tmp_path, said)
    pipeline._report(found)
    page = found.store.model(NAME) / "reports" / DIGEST / "report.html"
    assert page.is_file() and str(page) in said.getvalue()


def test_a_report_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("of the report")

    monkeypatch.setattr(gather, "report_of", broken)
    said = io.StringIO()
    pipeline._report(context(tmp_path, said))
    assert "warning: published, but there is no report: ZeroDivisionError: of the report" in said.getvalue()
    assert f"`quantpipe report {NAME}`" in said.getvalue()
