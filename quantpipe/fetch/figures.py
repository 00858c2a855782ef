"""What fetching cost, for receipts and for `--json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class FileFigures:
    """What fetching one file took.

    Attributes:
        bytes: its size.
        bytes_transferred: what the hub delivered, repetitions included.
        seconds: wall time, waits included.
        retries: how often it was tried again.
        how: `fetched`, `linked` from an earlier snapshot, or `kept`: it was there.
    """

    path: str
    bytes: int
    bytes_transferred: int = 0
    seconds: float = 0.0
    retries: int = 0
    how: str = "fetched"

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}
