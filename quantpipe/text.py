"""Times and amounts as text: what a receipt records, and what people read. Standard library only."""

from __future__ import annotations

import json
import unicodedata
from datetime import datetime, timezone


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def human_bytes(count: float) -> str:
    """`count` bytes in binary units: 237 GB of weights read as `220.7 GiB`."""
    if abs(count) < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if round(abs(count), 1) < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def human_seconds(seconds: float) -> str:
    """`seconds` as people say it: 4.2 s, 3 min 10 s, 2 h 05 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def printable(text: str) -> str:
    """`text` with control characters as escapes (`\\u001b`), also valid within JSON.

    What a hub, a recipe or a server calls its things must not set a terminal's title, clear its screen or
    hide a part of a line. Line breaks and tabs stay, and every kind of space.
    """
    if text.isprintable():
        return text
    return "".join(char if _harmless(char) else json.dumps(char)[1:-1] for char in text)


def _harmless(char: str) -> bool:
    return char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs"
