"""At the end of a run: a report is kept with the generation, and one that fails is only a warning."""

from __future__ import annotations

import pytest
from helpers.consoles import said
from helpers.golden import DIGEST, NAME

from quantpipe import pipeline
from quantpipe.report import gather
from quantpipe.stage import Context


def test_the_report_is_kept_with_the_generation(finished_run: Context) -> None:
    pipeline._report(finished_run)
    page = finished_run.store.model(NAME) / "reports" / DIGEST / "report.html"
    assert page.is_file() and str(page) in said(finished_run.console)


def test_a_report_that_fails_is_a_warning(finished_run: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("of the report")

    monkeypatch.setattr(gather, "report_of", broken)
    pipeline._report(finished_run)
    text = said(finished_run.console)
    assert "warning: published, but there is no report: ZeroDivisionError: of the report" in text
    assert f"`quantpipe report {NAME}`" in text
