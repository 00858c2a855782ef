"""Where reports are: `<store>/models/<recipe>/reports/<digest>/`, beside the receipts of the generation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from quantpipe.checkpoint.strict_json import load_object
from quantpipe.errors import VerificationError
from quantpipe.report.document import GenerationReport
from quantpipe.store.store import REPORTS, Store


class Files(NamedTuple):
    """The three forms of a report, as names of files."""

    json: str
    html: str
    markdown: str


PAGE = Files("report.json", "report.html", "report.md")
"""Of a generation."""

INDEX = Files("index.json", "index.html", "index.md")
"""Of a whole store."""


def folder_of(store: Store, recipe: str, digest: str) -> Path:
    """The folder of a generation's report."""
    return store.report_folder(recipe, digest)


def index_folder(store: Store) -> Path:
    """The folder of the report of the whole store."""
    return store.root / REPORTS


def stored(store: Store, recipe: str, digest: str) -> GenerationReport | None:
    """The report that was made earlier; None where there is none, or one of another version."""
    place = folder_of(store, recipe, digest) / PAGE.json
    try:
        return GenerationReport.from_json(load_object(place), where=str(place))
    except (OSError, ValueError, VerificationError):
        return None
