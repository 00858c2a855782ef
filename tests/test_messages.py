"""User-visible messages are reviewed as wording: a change of one shows in tests/messages.txt."""

from __future__ import annotations

import re

from helpers.messages import ROOT, messages

GOLDEN = ROOT / "tests" / "messages.txt"

TRANSLATED = re.compile(
    r"\b(behind|mend(ed|s)?|for want of|can(not)? be had|stands? in the way|without a word|comes no further|"
    r"in work|stand-ins?|held against|so many|tells?|told)\b",
    re.IGNORECASE,
)
"""Words of a translated English, by docs/glossary.md and CONTRIBUTING.md; none of them is needed."""


def test_the_list_of_messages_is_up_to_date() -> None:
    assert messages() == GOLDEN.read_text("utf-8"), "run `make messages` and read the difference"


def test_messages_are_plain_english() -> None:
    lines = messages().splitlines()
    odd = [line for line in lines if not line.startswith("#") and TRANSLATED.search(line)]
    assert odd == []
