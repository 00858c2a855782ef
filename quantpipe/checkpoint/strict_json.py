"""Read JSON from outside: no duplicate keys, no deep nesting, no huge numbers or trees.

What a hub sends, what lies in a source, a checkpoint or a store: anybody may have written it. Whatever is
wrong with it becomes a ValueError with one line of text, a sentence without its subject. The limits are here
and nowhere else: fetch, the worker, verify and the vLLM plugin refuse the same files. Standard library only.
"""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from quantpipe import durable

MAX_JSON_BYTES = 32 << 20
"""Longest JSON that is parsed. The description of Qwen3-235B has about 9 MB, its longest header far less."""

MAX_ITEMS = 1 << 20
"""Most commas in it: Qwen3-235B has 220,000 quantized tensors; a million entries take about 0.3 GB."""

MAX_DEPTH = 64
"""Objects and lists within each other. A config.json has four."""

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Errors by which a directory's content is at fault: no such file, a link to nothing or to itself.

All others (no permission, a mount that went away, a failing disk) say nothing about what a file holds.
"""

_MAX_DIGITS = 20
_BYTES_PER_BRACKET = 12
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(raw: bytes) -> Any:
    """The JSON value in `raw`.

    Python's objects are many times larger than `[]` in a file, so that a text of brackets alone is refused
    before it is parsed: a real header has three of them per 50 bytes and more.

    Raises:
        ValueError: not UTF-8, not JSON, a key twice, or built to exhaust memory.
    """
    if len(raw) > MAX_JSON_BYTES:
        raise ValueError(f"is longer than {MAX_JSON_BYTES:,} bytes")
    if (raw.count(b"{") + raw.count(b"[")) * _BYTES_PER_BRACKET > len(raw) + 4096:
        raise ValueError("consists of brackets, not of data")
    if raw.count(b",") > MAX_ITEMS:
        raise ValueError(f"has more than {MAX_ITEMS:,} items")
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_bounded_int,
            parse_float=_finite_float,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None
    _require_shallow(value)
    if _SURROGATE.search(raw):
        _require_utf8(value)
    return value


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`.

    Raises:
        ValueError: as `parse`, or it is not an object.
    """
    value = parse(raw)
    if not isinstance(value, dict):
        raise ValueError(f"is not a JSON object but {type(value).__name__}")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: as `parse_object`, or there is no such file.
        OSError: the file cannot be read now; see `ABSENT`.
    """
    try:
        return load_object(path)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        raise ValueError(f"cannot be read: {error.strerror}") from error


def load(path: Path) -> Any:
    """The JSON value in a file.

    Raises:
        ValueError: as `parse`, or it is not a plain file, or too long.
        OSError: the file cannot be read.
    """
    return parse(durable.read_bytes(path, most=MAX_JSON_BYTES))


def load_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, for callers that distinguish an unreadable file from a wrong one.

    Raises:
        ValueError: as `parse_object`, or it is not a plain file, or too long.
        OSError: the file cannot be read.
    """
    return parse_object(durable.read_bytes(path, most=MAX_JSON_BYTES))


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"has the key {twice[:200]!r} twice")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"has a number of {len(text)} digits")
    return int(text)


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"has the number {text[:40]}, which is too large")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"has {text}, which is not JSON")


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError("is nested too deeply")


def _require_utf8(value: Any) -> None:
    """Half of a surrogate pair is valid in JSON and nowhere else: no name of a file can have it."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("has half of a surrogate pair") from None
