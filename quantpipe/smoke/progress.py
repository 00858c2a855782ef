"""How far a starting server is, by its log: its phase, and whether it makes progress."""

from __future__ import annotations

import re
from pathlib import Path

_READ_LIMIT = 1 << 22
_KINDS_LIMIT = 100_000

_LINE_END = re.compile(rb"[\r\n]+")
_NUMBER = re.compile(rb"\d+")
_BAR = re.compile(rb"(\d+)%.*?(\d+)/(\d+)")
_PHASES: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"Loading \S+ checkpoint shards"), "loading shards"),
    (re.compile(rb"Capturing \S*\s*graphs?|graph capture", re.IGNORECASE), "capturing graphs"),
    (re.compile(rb"Loading weights took|Model loading took"), "weights loaded"),
    (re.compile(rb"profil|warm.?up|KV cache size|init engine", re.IGNORECASE), "warming up"),
    (re.compile(rb"torch\.compile|Compiling|Dynamo", re.IGNORECASE), "compiling"),
)


class Watch:
    """Reads a growing log, and keeps a number that grows only with progress.

    A line counts if it is new, apart from its numbers: a waiting server logs the same line again and again.
    In a progress bar ("37% Completed | 3/8") the numbers count too.

    Args:
        log: the server's log.
        start: where in it this server's output begins, bytes.
    """

    def __init__(self, log: Path, start: int) -> None:
        self._log = log
        self._position = start
        self._rest = b""
        self._kinds: set[bytes] = set()
        self.phase = "starting the server"

    @property
    def steps(self) -> int:
        """How many different lines the server has logged."""
        return len(self._kinds)

    def look(self) -> None:
        """Read what is new."""
        try:
            with self._log.open("rb") as file:
                file.seek(self._position)
                data = file.read(_READ_LIMIT)
        except OSError:
            return
        self._position += len(data)
        *lines, self._rest = _LINE_END.split(self._rest + data)
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        bar = _BAR.search(line)
        if len(self._kinds) < _KINDS_LIMIT:
            self._kinds.add(_NUMBER.sub(b"0", line) + (b" ".join(bar.groups()) if bar else b""))
        for pattern, name in _PHASES:
            if pattern.search(line):
                self.phase = name
                if bar:
                    self.phase = f"{name} {bar[2].decode()}/{bar[3].decode()}"
                return
