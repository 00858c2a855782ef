"""Where reports are: `<store>/models/<recipe>/reports/<digest>/`, beside the receipts of the generation."""

from __future__ import annotations

import json
from pathlib import Path

from quantpipe.errors import VerificationError
from quantpipe.report.document import GenerationReport
from quantpipe.store.store import REPORTS, Store

JSON, HTML, MARKDOWN = "report.json", "report.html", "report.md"
"""The files of a report."""

INDEX_JSON, INDEX_HTML, INDEX_MARKDOWN = "index.json", "index.html", "index.md"
"""The files of the report of a whole store."""


def folder_of(store: Store, recipe: str, digest: str) -> Path:
    """The folder of a generation's report."""
    return store.model(recipe) / REPORTS / digest


def index_folder(store: Store) -> Path:
    """The folder of the report of the whole store."""
    return store.root / REPORTS


def stored(store: Store, recipe: str, digest: str) -> GenerationReport | None:
    """The report that was made earlier; None where there is none, or one of another version."""
    place = folder_of(store, recipe, digest) / JSON
    try:
        return GenerationReport.from_json(json.loads(place.read_text("utf-8")), where=str(place))
    except (OSError, ValueError, VerificationError):
        return None
