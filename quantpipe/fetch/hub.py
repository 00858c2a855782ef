"""The interface of a hub: requests about a repository, and one way to get a file's bytes.

Implementations are in hubs/. A hub never decides what happens after a fault: it raises `PassingFault` for a
transient one and an error of errors.py for any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class PassingFault(Exception):  # noqa: N818  (not an error yet: a retry may help)
    """A transient fault: a retry may succeed.

    Args:
        what: what happened, in one line.
        retry_after: seconds that the server asked to wait; None where it said nothing.
    """

    def __init__(self, what: str, *, retry_after: float | None = None) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class Stopped(Exception):  # noqa: N818  (asked for, not a fault)
    """The transfer was stopped: another file failed, or the user pressed Ctrl-C."""


@dataclass(frozen=True, order=True)
class RemoteFile:
    """A file as the hub lists it.

    Attributes:
        path: relative to the repository's root, POSIX.
        size: bytes.
        sha256: hex, where the hub knows it.
        git_sha1: hex id of the git blob, where the hub knows it: SHA-1 over `blob <size>\\0` and the content.
    """

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None


class Sink(Protocol):
    """Where a hub delivers a file's bytes. Everything may raise `Stopped`."""

    @property
    def offset(self) -> int:
        """How many bytes have arrived already: the hub delivers the rest."""
        ...

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        ...

    def restart(self) -> None:
        """Drop what has arrived: the hub can only deliver from the first byte."""
        ...

    def clone(self, source: Path, sha256: str) -> bool:
        """Take over a whole file by reflink; False where the filesystem cannot.

        Args:
            sha256: of the content of `source`, which is not read again.
        """
        ...

    def on_abort(self, abort: Callable[[], object]) -> None:
        """`abort` ends a blocked read from another thread; the latest one counts."""
        ...


class Hub(Protocol):
    """A place that weights come from."""

    @property
    def name(self) -> str:
        """The hub's name, as recipes have it."""
        ...

    @property
    def parallel(self) -> int:
        """How many files to fetch from the hub at a time, unless the settings say otherwise."""
        ...

    def describe(self, repo: str) -> str:
        """The source in one line, for people; without secrets."""
        ...

    def folder(self, repo: str) -> str:
        """`owner/name` for the snapshot's path in the store."""
        ...

    def resolve(self, repo: str, revision: str | None) -> str:
        """The commit that a revision names now; None is the hub's default revision.

        Raises:
            RecipeError: there is no such repository or revision.
            PreflightError: the token is missing, wrong or not licensed, or the hub is offline.
            PassingFault: the hub did not answer.
        """
        ...

    def list(self, repo: str, commit: str) -> tuple[RemoteFile, ...]:
        """All files of the repository at a commit. Raises as `resolve` does."""
        ...

    def read(self, repo: str, commit: str, path: str) -> bytes:
        """The content of one small file, unchecked: for plans.

        Raises:
            ValueError: it is longer than `MAX_JSON_BYTES`, or no plain file; and as `resolve` does.
        """
        ...

    def fetch(self, repo: str, commit: str, file: RemoteFile, sink: Sink) -> None:
        """Deliver the bytes of a file from `sink.offset` on.

        Raises:
            PassingFault: the transfer broke off; delivered bytes are kept.
            PreflightError, RecipeError: no retry will help.
        """
        ...

    def close(self) -> None:
        """Close connections; the hub may be used again."""
        ...
