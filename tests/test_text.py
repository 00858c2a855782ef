from __future__ import annotations

import json
import re
import time

import pytest

from quantpipe.text import age, human_bytes, human_seconds, now, printable, utc


def test_now_is_iso_8601_in_utc_to_the_second() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", now())


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (237e9, "220.7 GiB"),
        (470e9 * 10, "4.3 TiB"),
        (5000 * 1024**4, "5000.0 TiB"),
    ],
)
def test_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (4.24, "4.2 s"),
        (59.97, "1 min 00 s"),
        (190, "3 min 10 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@pytest.mark.parametrize("text", ["plain", "two\nlines\tand a tab", "中文\u3000和\u00a0空格 🙂", "é"])
def test_what_people_write_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    "char", ["\x1b", "\x07", "\r", "\x00", "\x7f", "\x9b", "\u202e", "\ud800", "\U000e0041"]
)
def test_what_a_terminal_obeys_becomes_an_escape_that_json_reads(char: str) -> None:
    shown = printable(f"a{char}b")
    assert shown.isascii() and shown.isprintable()
    assert json.loads(f'"{shown}"') == f"a{char}b"


def test_times_and_ages() -> None:
    assert utc(0) == "1970-01-01T00:00:00Z"
    assert age(utc(time.time() - 600)) == "10 min"
    assert age(utc(time.time() - 5.5 * 3600)) == "5 h"
    assert age(utc(time.time() - 12.5 * 86400)) == "12 d"
    assert age(utc(time.time() + 3600)) == "0 min"
