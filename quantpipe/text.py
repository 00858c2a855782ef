"""Times and amounts as text: what a receipt records, and what people read. Standard library only."""

from __future__ import annotations

import json
import unicodedata
from datetime import datetime, timezone

_ISO = "%Y-%m-%dT%H:%M:%SZ"


def now() -> str:
    """The time, UTC, ISO 8601 to the second."""
    return datetime.now(timezone.utc).strftime(_ISO)


def utc(seconds: float) -> str:
    """`seconds` since the epoch, UTC, ISO 8601 to the second."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime(_ISO)


def age(time: str) -> str:
    """How long ago `time`, as `now` writes it, was by this host's clock: 5 h, 12 d; 0 min for the future."""
    then = datetime.strptime(time, _ISO).replace(tzinfo=timezone.utc)
    minutes = max(0, int((datetime.now(timezone.utc) - then).total_seconds() // 60))
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} d"


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
