"""The figures of fetching a file, counted while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from quantpipe.store.outputs import FetchedFile


@dataclass
class FileFigures:
    """What fetching one file takes; see FetchedFile for the fields."""

    path: str
    bytes: int
    bytes_transferred: int = 0
    seconds: float = 0.0
    retries: int = 0
    how: str = "fetched"

    def finished(self) -> FetchedFile:
        """The figures as receipts and events hold them."""
        seconds = round(self.seconds, 3)
        return FetchedFile(self.path, self.bytes, self.bytes_transferred, seconds, self.retries, self.how)
