"""Snapshots, as a scrub reads them: a damaged file loses its receipt, and the next run fetches it again."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from quantpipe.digest import OnBytes
from quantpipe.errors import VerificationError
from quantpipe.fetch.hashes import Hashes
from quantpipe.fetch.snapshot import PRIVATE, FileReceipt, Snapshot
from quantpipe.operate.target import File, Kind, Shared, inode
from quantpipe.store import sealed
from quantpipe.store.manifest import Mismatch
from quantpipe.store.verified import FOLDER, Verified


class SnapshotTarget:
    """The fetched files of a source; those without a receipt are fetch's, not ours."""

    kind: Kind = "snapshot"

    def __init__(self, path: Path) -> None:
        self.recipe: str | None = None
        self.path = path
        self.current = False
        self.verified = Verified(path / PRIVATE / f"{FOLDER}.json")
        self._snapshot = Snapshot(path)
        self._inode = inode(path)
        self._receipts: dict[str, FileReceipt] = {}
        self._defects: list[Mismatch] = []
        try:
            self._receipts = {r.file.path: r for r in self._snapshot.receipts()}
        except VerificationError as error:
            self._defects = [Mismatch(f"{PRIVATE}/manifest.json", error.what)]

    def files(self) -> list[File]:
        """Those that are there and have a receipt."""
        found = []
        for path, receipt in sorted(self._receipts.items()):
            status = _status(self.path / path)
            if status is not None and stat.S_ISREG(status.st_mode):
                shared = _shared(status, receipt)
                found.append(File(path, receipt.stamp.size, self.verified.time(path), shared))
        return found

    def glance(self) -> list[Mismatch]:
        """Its manifest can be read. A missing file is nothing to find: the next run fetches it."""
        return self._defects

    def shared(self, path: str) -> Shared | None:
        """Snapshots of two commits share equal files."""
        status = _status(self.path / path)
        return None if status is None else _shared(status, self._receipts[path])

    def check(self, path: str, on_bytes: OnBytes) -> Mismatch | None:
        """Against the hub's hashes and the receipt."""
        receipt, file = self._receipts[path], self.path / path
        try:
            problem = _difference(receipt, file, on_bytes)
            if problem is None:
                return None
            if _difference(receipt, file, None) is None:
                raise sealed.read_differently(file)
        except FileNotFoundError:  # a run that looks at its snapshot removed it, and fetches it
            return None
        return Mismatch(path, f"has {problem}")

    def damaged(self, found: Sequence[Mismatch]) -> None:
        """Forget the receipts, so that the next run hashes these files and fetches those that are wrong."""
        for mismatch in found:
            if mismatch.path in self._receipts:
                self._snapshot.forget(self._receipts[mismatch.path].file)

    def intact(self, read: Iterable[str]) -> None:
        """Nothing to do: the times are kept anyway."""

    def same(self) -> bool:
        """Whether it is still there."""
        return self._inode is not None and inode(self.path) == self._inode


def _difference(receipt: FileReceipt, file: Path, on_bytes: OnBytes | None) -> str | None:
    hashes = Hashes(receipt.file)
    hashes.read(file, on_bytes)
    if (problem := hashes.mismatch()) is not None:
        return problem
    if hashes.sha256 != receipt.sha256:
        return f"sha256 {hashes.sha256} instead of {receipt.sha256}"
    return None


def _status(path: Path) -> os.stat_result | None:
    """A file's status; None where it is gone."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE):
            return None
        raise


def _shared(status: os.stat_result, receipt: FileReceipt) -> Shared | None:
    file = receipt.file
    if status.st_nlink == 1:
        return None
    return Shared(status.st_dev, status.st_ino, file.size, receipt.sha256, (file.sha256, file.git_sha1))
