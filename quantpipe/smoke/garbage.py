"""Cheap signs of a model that computes nonsense: properties that no sound answer has."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

_MOST_STRANGE = 0.5
"""Share of letters in scripts other than the prompt's and Latin."""

_FEWEST_LETTERS = 8
_MOST_SCRIPTS = 4
_LOOPS = 4
_SHORTEST_LOOP = 24
"""Shortest tail that counts as a loop, characters."""


def garbage(text: str, prompt: str | None = None, *, cut: bool = False) -> str | None:
    """What is plainly wrong with a text; None where nothing is.

    Args:
        prompt: what was asked, to compare scripts with; None compares none.
        cut: `max_tokens` ended it, not the model.
    """
    stripped = text.strip()
    if not stripped:
        return "empty"
    if "\ufffd" in stripped[:-1]:  # max_tokens may have cut the last character
        return "not valid text"
    if len(stripped) >= 16 and len(set(stripped.split())) == 1 and len(stripped.split()) > 4:
        return "one word over and over"
    if len(stripped) >= 16 and len(set(stripped)) <= 2:
        return "one character over and over"
    if cut and _loops(stripped):
        return "a loop that does not stop"
    return None if prompt is None else _strange(stripped, prompt)


def _loops(text: str) -> bool:
    """Whether most of the text is one piece, repeated `_LOOPS` times or more at its end."""
    for period in range(1, len(text) // _LOOPS + 1):
        piece = text[-period:]
        count = 1
        while text.endswith(piece, 0, len(text) - count * period):
            count += 1
        length = count * period
        if count >= _LOOPS and length >= _SHORTEST_LOOP and length * 2 > len(text) and piece.strip():
            return True
    return False


def _strange(text: str, prompt: str) -> str | None:
    scripts = _scripts(text)
    letters = sum(scripts.values())
    if letters < _FEWEST_LETTERS:
        return None
    expected = {*_scripts(prompt), "LATIN"}
    strange = sum(count for script, count in scripts.items() if script not in expected)
    if strange > _MOST_STRANGE * letters:
        return "in another script than the prompt"
    many = [script for script, count in scripts.items() if count >= 2 and script not in expected]
    return "in many scripts at once" if len(many) >= _MOST_SCRIPTS else None


def _scripts(text: str) -> Counter[str]:
    """How many letters of which script, by the first word of their Unicode names."""
    return Counter(_script(character) for character in text if character.isalpha())


@lru_cache(maxsize=4096)
def _script(character: str) -> str:
    name = unicodedata.name(character, "UNKNOWN").split()[0]
    # Japanese mixes three; compatibility forms of Latin and Han letters are what they stand for.
    if name in ("HIRAGANA", "KATAKANA", "CJK", "KANGXI", "IDEOGRAPHIC"):
        return "CJK"
    return {"FULLWIDTH": "LATIN", "MATHEMATICAL": "LATIN", "FEMININE": "LATIN"}.get(name, name)
