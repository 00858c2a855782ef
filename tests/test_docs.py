"""What the documentation has to name: every command, option, setting and exit code."""

from __future__ import annotations

import pytest
from helpers.commands import ROOT

from quantpipe import errors
from quantpipe.cli.docs import PAGES
from quantpipe.errors import QuantpipeError


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    """`python -m quantpipe.cli.docs` writes them."""
    assert (ROOT / "docs" / name).read_text("utf-8") == PAGES[name]()


def test_every_exit_code_has_a_row() -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text("utf-8")
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, QuantpipeError)]
    for code in {0, *(kind.exit_code for kind in kinds)}:
        assert f"\n| {code} | " in page
