"""Stamps of files: what was hashed is what gets its name.

Verifying a checkpoint takes minutes to hours, and on shared storage other users may be able to write into it.
A file that was written, replaced or renamed meanwhile has another size, mtime, inode or ctime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from quantpipe.errors import VerificationError
from quantpipe.store.manifest import CARD, PROVENANCE, scan


class Stamp(NamedTuple):
    """A file's identity and last changes; the ctime cannot be set by anybody, other than the mtime."""

    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class Stamps:
    """The stamps of all files of a checkpoint at one time, by path.

    Raises:
        VerificationError: it holds something other than files and directories.
    """

    files: Mapping[str, Stamp]

    @classmethod
    def of(cls, checkpoint: Path) -> Stamps:
        """As they are now; provenance and model card, which are written last, are left out."""
        files = scan(checkpoint, exclude=(PROVENANCE, CARD))
        return cls(
            {path: Stamp(s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for path, s in files.items()}
        )

    def require_same(self, now: Stamps, checkpoint: Path, *, chmod: bool = False) -> None:
        """Check that nobody touched a file since.

        Args:
            now: the stamps of a later time.
            checkpoint: the directory, for the error.
            chmod: modes were changed in between, which changes the ctime.

        Raises:
            VerificationError: somebody did; it names the file.
        """
        for path in sorted({*self.files, *now.files}):
            before, after = self.files.get(path), now.files.get(path)
            if before is None or after is None or _content(before, chmod) != _content(after, chmod):
                raise VerificationError(
                    f"a file was {_how(before, after)} after it was verified",
                    where=str(checkpoint / path),
                    hint="nothing was sealed; find out who writes there, then run again: verify reads "
                    "everything once more",
                )


def _content(stamp: Stamp, chmod: bool) -> Stamp:
    return stamp._replace(ctime_ns=0) if chmod else stamp


def _how(before: Stamp | None, after: Stamp | None) -> str:
    if before is None:
        return "added"
    return "removed" if after is None else "changed"
