"""From the bytes of a dataset file to JSON values, each with its line.

json.loads() drops the lines and stops at the first problem; here each problem is reported with its line. What
the values have to be is not decided here but in quantpipe.recipe.datasets.
"""

from __future__ import annotations

import codecs
import itertools
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

# Objects become tuples of pairs, so that a key given twice is seen; integers become floats, because int()
# refuses more than 4,300 digits with an error of its own.
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float)
_SPACE = re.compile(r"[ \t\n\r]*")


class Problem(NamedTuple):
    """One thing that is wrong, and the line (from 1) where it is."""

    line: int
    what: str


class Entry(NamedTuple):
    """One JSON value that should hold a prompt; `item` counts from 1 and is None in a .jsonl file."""

    line: int
    item: int | None
    value: object


def decode(raw: bytes) -> tuple[str | None, list[Problem]]:
    """The text, and what is wrong with its encoding; None for UTF-16, where lines are unknown."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None, [Problem(1, "not UTF-8 at byte 0: the byte order mark of UTF-16; save it as UTF-8")]
    problems = []
    if raw.startswith(codecs.BOM_UTF8):
        problems.append(Problem(1, "byte order mark (BOM) at byte 0: save it as UTF-8 without one"))
        # Spaces keep the offsets of all that follows.
        raw = b"   " + raw[3:]
    try:
        return raw.decode("utf-8"), problems
    except UnicodeDecodeError:
        # A newline byte is never part of a longer UTF-8 sequence: lines can be decoded one by one, and what
        # is wrong with the others is still found.
        return raw.decode("utf-8", "replace"), problems + list(_undecodable_lines(raw))


def _undecodable_lines(raw: bytes) -> Iterator[Problem]:
    start = 0
    for number, line in enumerate(raw.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield Problem(number, f"not UTF-8 at byte {start + error.start} (0x{line[error.start]:02x})")
        start += len(line) + 1


def scan_lines(text: str) -> Iterator[Entry | Problem]:
    """The value of every line of a .jsonl file that is not blank."""
    if text.lstrip().startswith("["):
        line = 1 + text.count("\n", 0, text.index("["))
        yield Problem(
            line,
            "found a list, but each line must be one JSON value: give a JSON list the extension .json",
        )
        return
    for number, line_text in enumerate(text.split("\n"), 1):
        start = _skip_space(line_text, 0)
        if start == len(line_text):
            continue
        try:
            value, end = _value_at(line_text, start)
            if (rest := _skip_space(line_text, end)) < len(line_text):
                raise json.JSONDecodeError("more than one value on the line", line_text, rest)
        except json.JSONDecodeError as error:
            yield Problem(number, f"invalid JSON at column {error.colno}: {error.msg}")
        else:
            yield Entry(number, None, value)


def scan_list(text: str) -> Iterator[Entry | Problem]:
    """The items of a .json list; the first syntax error ends the scan: what follows cannot be parsed."""
    start = _skip_space(text, 0)
    if start == len(text):
        return
    try:
        if text[start] == "[":
            yield from _list_items(text, start)
        else:
            line = 1 + text.count("\n", 0, start)
            yield Problem(line, f"found {type_name(_value_at(text, start)[0])}, expected a list")
    except json.JSONDecodeError as error:
        yield Problem(error.lineno, f"invalid JSON at column {error.colno}: {error.msg}")


def _list_items(text: str, bracket: int) -> Iterator[Entry]:
    """Decode the list at offset `bracket` item by item: json.loads() would lose the line of each.

    Raises:
        json.JSONDecodeError: with the offset in the whole text.
    """
    line = 1 + text.count("\n", 0, bracket)
    counted, position = bracket, _skip_space(text, bracket + 1)
    if not text.startswith("]", position):
        for item in itertools.count(1):
            line += text.count("\n", counted, position)
            counted = position
            value, position = _value_at(text, position)
            yield Entry(line, item, value)
            position = _skip_space(text, position)
            if not text.startswith(",", position):
                break
            position = _skip_space(text, position + 1)
            if text.startswith("]", position):
                raise json.JSONDecodeError("comma before the closing bracket", text, position)
    if not text.startswith("]", position):
        raise json.JSONDecodeError("missing comma or closing bracket", text, position)
    if (rest := _skip_space(text, position + 1)) < len(text):
        raise json.JSONDecodeError("extra text after the list", text, rest)


def _value_at(text: str, start: int) -> tuple[object, int]:
    """The JSON value at an offset, and the offset after it.

    Raises:
        json.JSONDecodeError: no value there, or one nested too deeply to read.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", text, start) from None
    return value, end


def _skip_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return found.end() if found else start


def type_name(value: object) -> str:
    """The JSON name of a decoded value's type, with its article."""
    if value is None:
        return "null"
    # bool before float: each JSON number is a float here.
    names = {bool: "a boolean", float: "a number", str: "a string", list: "a list", tuple: "an object"}
    return names[type(value)]
