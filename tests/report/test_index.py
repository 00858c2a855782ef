"""The page of a whole store: trends, links to reports, recipes that cannot be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.golden import DIGEST, NAME
from helpers.reports import SECOND, reported_store
from helpers.stores import RECIPE, published

from quantpipe.report import html, plots, report_store
from quantpipe.report.index import index_page, store_report
from quantpipe.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return reported_store(tmp_path)[0]


def test_generations_with_their_figures_the_current_one_last(store: Store) -> None:
    [recipe] = store_report(store).recipes
    assert (recipe.name, recipe.current) == (NAME, SECOND)
    first, second = recipe.generations
    assert (first.digest, first.state, second.state) == (DIGEST, "published earlier", "current")
    assert (first.matched, first.probes, first.bytes) == (18, 18, 1_381_218)
    assert first.quality is not None and first.quality["kl_mean"] == 0.0121
    assert first.report is not None and second.report is None


def test_the_links_of_a_written_page_lead_to_reports(store: Store, tmp_path: Path) -> None:
    for folder in (None, tmp_path / "elsewhere"):
        _, page = report_store(store, folder)
        assert page is not None
        [link] = re.findall(r'href="([^"]*report\.html[^"]*)"', page.read_text())
        assert (page.parent / link).resolve().is_file()
    assert {path.name for path in (store.root / "reports").iterdir()} == {
        "index.html",
        "index.json",
        "index.md",
    }


def test_a_recipe_that_cannot_be_read_is_said_and_hides_no_other(store: Store) -> None:
    (store.model("broken") / "current").mkdir(parents=True)
    published(store, "a")  # with the receipt of one stage only
    report = store_report(store)
    found = {recipe.name: recipe for recipe in report.recipes}
    assert found["broken"].problem is not None and "not a link" in found["broken"].problem
    assert found[RECIPE].generations == () and len(found[NAME].generations) == 2
    page = index_page(report, ".")
    assert page.grave and "1 recipe cannot be read" in page.verdict
    assert "Nothing is published" in html.render(page)


def test_an_empty_store_has_a_page(tmp_path: Path) -> None:
    report, page = report_store(Store(tmp_path / "store"), tmp_path / "out")
    assert report.recipes == () and page is not None and "0 recipes" in page.read_text()


def test_two_measured_generations_have_a_plot(store: Store) -> None:
    pytest.importorskip("matplotlib", reason="plots need the extra `report`")
    [recipe] = store_report(store).recipes
    drawn = plots.trend("x", recipe.generations)
    assert drawn is not None and "from 0.0121 to 0.0187" in drawn.alternative
    assert plots.trend("x", recipe.generations[:1]) is None
