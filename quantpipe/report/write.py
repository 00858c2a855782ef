"""Write a report: report.json, report.html and report.md, each in one step."""

from __future__ import annotations

from pathlib import Path

from quantpipe import durable
from quantpipe.report import html, markdown
from quantpipe.report.blocks import Page
from quantpipe.report.document import GenerationReport
from quantpipe.report.page import page_of
from quantpipe.report.places import PAGE, Files, folder_of
from quantpipe.store.folders import make_readable
from quantpipe.store.outputs import Record
from quantpipe.store.store import Store


def write_report(report: GenerationReport, folder: Path) -> Path:
    """Write all three files; the path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    return write_page(page_of(report), report, folder, PAGE)


def write_page(page: Page, report: Record, folder: Path, files: Files) -> Path:
    """Write a report in its three forms; the path of the page.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    durable.write_json(folder / files.json, report.to_json())
    durable.write_bytes(folder / files.markdown, markdown.render(page).encode())
    durable.write_bytes(folder / files.html, html.render(page).encode())
    return folder / files.html


def keep_report(store: Store, report: GenerationReport) -> Path:
    """Write it beside the receipts of its generation, for people of other uids as well; the page's path."""
    folder = folder_of(store, report.recipe, report.digest)
    make_readable(folder)
    return write_report(report, folder)
