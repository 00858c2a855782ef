"""What a scrub reads: a directory with known content, its files, and what follows from damage."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from quantpipe.digest import OnBytes
from quantpipe.store.manifest import Mismatch
from quantpipe.store.verified import Verified

Kind = Literal["generation", "snapshot"]


class Shared(NamedTuple):
    """A content that several snapshots have by hard links: an inode, and the hashes that it must have."""

    device: int
    inode: int
    size: int
    sha256: str
    remote: tuple[str | None, str | None]


class File(NamedTuple):
    """A file to read.

    Attributes:
        path: in the target.
        size: in bytes.
        last: when it was last found right, seconds since the epoch; None for never.
        shared: files with an equal one need to be read once; None where it has no other name.
    """

    path: str
    size: int
    last: float | None
    shared: Shared | None = None


class Target(Protocol):
    """A directory with known content.

    Attributes:
        kind: what it is.
        recipe: whose generation it is; None for a snapshot, which recipes share.
        current: whether servers follow a pointer to it.
        verified: when its files were last found right.
    """

    kind: Kind
    recipe: str | None
    path: Path
    current: bool
    verified: Verified

    def files(self) -> list[File]:
        """The files to read."""
        ...

    def glance(self) -> list[Mismatch]:
        """What is wrong with names, sizes and modes; reads no content."""
        ...

    def shared(self, path: str) -> Shared | None:
        """What a file shares with hard links to it, now; None where it has no other name."""
        ...

    def check(self, path: str, on_bytes: OnBytes) -> Mismatch | None:
        """Read a file from the device, a second time where it differs.

        Raises:
            RetryableError: the two reads differed.
            OSError: it cannot be read.
        """
        ...

    def damaged(self, found: Sequence[Mismatch]) -> None:
        """Record that files are wrong, so that a run makes or fetches them again."""
        ...

    def intact(self, read: Iterable[str]) -> None:
        """Nothing wrong was found, and these files were read."""
        ...

    def same(self) -> bool:
        """Whether it is still there, and not another copy in its place."""
        ...


def is_mode(mismatch: Mismatch) -> bool:
    """Whether only the permission bits are wrong."""
    return mismatch.problem.startswith("has mode ")


def inode(path: Path) -> int | None:
    """Which directory a path is; None where it is gone. A copy that took its place has another one."""
    try:
        return path.stat().st_ino
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise
