"""What is fetched, into what, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quantpipe.digest import OnBytes
from quantpipe.fetch.figures import FileFigures
from quantpipe.fetch.hub import Hub
from quantpipe.fetch.hubs.local import LocalHub
from quantpipe.fetch.snapshot import Snapshot, Stamp


@dataclass(frozen=True)
class Source:
    """A repository at a commit, and the snapshot of it."""

    hub: Hub
    repo: str
    commit: str
    snapshot: Snapshot

    def describe(self) -> str:
        """Where it is, for people."""
        return self.hub.describe(self.repo)

    def origin(self, path: str) -> Stamp | None:
        """For a local directory, the stamp of the file that `path` is copied from."""
        return self.hub.origin(path) if isinstance(self.hub, LocalHub) else None


@dataclass(frozen=True)
class Listener:
    """Who hears of the progress of transfers.

    Attributes:
        on_bytes: called with the bytes that landed, from any thread; negative where they proved wrong.
        on_file: called with each finished file.
        on_retry: called with the reason why a file is tried again.
    """

    on_bytes: OnBytes = lambda count: None
    on_file: Callable[[FileFigures], object] = lambda figures: None
    on_retry: Callable[[str], object] = lambda text: None
