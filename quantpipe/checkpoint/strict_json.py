"""Read JSON from untrusted files: no duplicate keys, no deep nesting, no huge numbers or trees.

A parser error, whatever it is, becomes a ValueError with one line of text.
"""

from __future__ import annotations

import errno
import json
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

MAX_JSON_BYTES = 32 << 20
"""Longest JSON that is parsed. The description of Qwen3-235B has about 9 MB, its longest header far less."""

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Errors by which a directory's content is at fault: no such file, a link to nothing or to itself.

All others (no permission, a mount that went away, a failing disk) say nothing about what a file holds.
"""

_MAX_DIGITS = 20
_BYTES_PER_BRACKET = 12


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`.

    Python's objects are many times larger than `[]` in a file, so that a text of brackets alone is refused
    before it is parsed: a real header has three of them per 50 bytes and more.

    Raises:
        ValueError: not UTF-8, not JSON, not an object, a key twice, or built to exhaust memory.
    """
    if len(raw) > MAX_JSON_BYTES:
        raise ValueError(f"is longer than {MAX_JSON_BYTES:,} bytes")
    if (raw.count(b"{") + raw.count(b"[")) * _BYTES_PER_BRACKET > len(raw) + 4096:
        raise ValueError("consists of brackets, not of data")
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_bounded_int,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None
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


def load_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, for callers that distinguish an unreadable file from a wrong one.

    Raises:
        ValueError: as `parse_object`, or it is not a plain file, or too long.
        OSError: the file cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("is not a plain file")
    if found.st_size > MAX_JSON_BYTES:
        raise ValueError(f"has {found.st_size:,} bytes, more than {MAX_JSON_BYTES:,}")
    return parse_object(path.read_bytes())


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


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"has {text}, which is not JSON")
