from __future__ import annotations

from helpers.commands import ROOT

from quantpipe.verify.checks.docs import checks_markdown


def test_the_page_is_the_registry() -> None:
    assert (ROOT / "docs" / "checks.md").read_text() == checks_markdown()
