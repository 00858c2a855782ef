"""The page of a whole store: every recipe with its generations, and how their figures have moved."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from quantpipe.errors import QuantpipeError
from quantpipe.report import plots
from quantpipe.report.blocks import Block, Code, Column, Link, Page, Paragraph, Section, Strong, Table, Text
from quantpipe.report.changes import quality_figures
from quantpipe.report.document import FORMAT, RecipeTrends, StoreReport, Trend
from quantpipe.report.gather import state_of
from quantpipe.report.places import INDEX, PAGE, folder_of
from quantpipe.report.wording import number, percent, short
from quantpipe.report.write import write_page
from quantpipe.store.receipt import Receipts
from quantpipe.store.store import Generation, Store
from quantpipe.text import human_bytes, human_seconds

_FIGURES = ("kl_mean", "kl_p99", "top1", "perplexity_ratio")


def store_report(store: Store) -> StoreReport:
    """All recipes; of one whose receipts or pointer cannot be read, the problem."""
    return StoreReport(FORMAT, str(store.root), tuple(_recipe(store, name) for name in store.recipes()))


def write_index(report: StoreReport, folder: Path, store: Store) -> Path:
    """Write index.json, index.html and index.md; the page's path.

    Args:
        folder: of the page; its links lead from there to the reports in the store.

    Raises:
        OSError: the folder cannot be written.
    """
    return write_page(index_page(report, os.path.relpath(store.root, folder)), report, folder, INDEX)


def _recipe(store: Store, name: str) -> RecipeTrends:
    try:
        current = store.pointer(name).named()
        published = [generation for generation in store.generations(name) if generation.rank is not None]
        found = (_trend(store, name, generation) for generation in published)
        return RecipeTrends(name, current, tuple(trend for trend in found if trend is not None))
    except QuantpipeError as error:
        return RecipeTrends(name, problem=str(error))


def _trend(store: Store, name: str, generation: Generation) -> Trend | None:
    """None for one whose receipts were removed."""
    receipts = store.load_receipts(name, generation.digest)
    if any(stage not in receipts for stage in ("fetch", "quantize", "smoke")):
        return None
    page = folder_of(store, name, generation.digest) / PAGE.html
    smoke = receipts.smoke.figures
    return Trend(
        digest=generation.digest,
        state=state_of(store, name, generation.digest),
        published=_published(receipts),
        commit=receipts.fetch.outputs.commit,
        bytes=receipts.quantize.figures.bytes,
        seconds=round(sum(receipt.seconds for receipt in receipts.values()), 3),
        probes=smoke.known,
        matched=smoke.matched,
        quality=quality_figures(receipts.quantize.outputs.quality, _FIGURES),
        report=store.relative(page) if page.is_file() else None,
    )


def _published(receipts: Receipts) -> str:
    return receipts.publish.started if "publish" in receipts else ""


def index_page(report: StoreReport, root: str) -> Page:
    """The page.

    Args:
        root: of the store, relative to the page.
    """
    count = sum(len(recipe.generations) for recipe in report.recipes)
    found = f"{number(len(report.recipes), 'recipe')}, {number(count, 'published generation')}"
    problems = sum(recipe.problem is not None for recipe in report.recipes)
    damaged = sum(trend.state == "damaged" for recipe in report.recipes for trend in recipe.generations)
    bad = [f"{number(problems, 'recipe')} cannot be read"] if problems else []
    bad += [f"{number(damaged, 'generation')} damaged"] if damaged else []
    return Page(
        title="Quantized models in a store",
        subject=report.store,
        verdict=f"{found}: {', '.join(bad)}." if bad else f"{found}.",
        grave=bool(bad),
        top=(),
        sections=tuple(
            _section(recipe, f"recipe-{place}", root) for place, recipe in enumerate(report.recipes, 1)
        ),
    )


def _section(recipe: RecipeTrends, anchor: str, root: str) -> Section:
    if recipe.problem is not None:
        return Section(anchor, recipe.name, (Paragraph((Strong("Cannot be read: "), recipe.problem)),))
    if not recipe.generations:
        return Section(anchor, recipe.name, (Paragraph("Nothing is published."),))
    plotted = plots.trend(anchor, recipe.generations)
    blocks: tuple[Block, ...] = (plotted,) if plotted is not None else ()
    return Section(anchor, recipe.name, (*blocks, _table(recipe, root)))


def _table(recipe: RecipeTrends, root: str) -> Table:
    columns = (
        Column("Generation"),
        Column("State"),
        Column("Published"),
        Column("Source commit"),
        Column("Size", numeric=True),
        Column("Time", numeric=True),
        Column("Probes as known", numeric=True),
        Column("Mean KL", numeric=True),
        Column("Top-1", numeric=True),
        Column("Perplexity ratio", numeric=True),
    )
    rows = tuple(_row(trend, root) for trend in reversed(recipe.generations))
    return Table(f"Generations of {recipe.name}, the current one first", columns, rows)


def _row(trend: Trend, root: str) -> tuple[Text, ...]:
    digest: Text = Code(short(trend.digest))
    if trend.report is not None:
        digest = Link(short(trend.digest), quote(f"{root}/{trend.report}"))
    figures = trend.quality or {}
    return (
        digest,
        trend.state,
        trend.published or "–",
        Code(short(trend.commit)),
        human_bytes(trend.bytes),
        human_seconds(trend.seconds),
        f"{trend.matched} of {trend.probes}",
        f"{figures['kl_mean']:.4f}" if figures else "–",
        percent(figures["top1"]) if figures else "–",
        f"{figures['perplexity_ratio']:.4f}" if figures else "–",
    )
