"""A snapshot on disk: the files at a commit, the source manifest and one receipt per finished file.

    <snapshot>/<path>                              complete and correct, or absent; read-only
    <snapshot>/.quantpipe/manifest.json            source manifest: stored before the first byte
    <snapshot>/.quantpipe/receipts/<path>.json     size, mtime, inode and hashes of a finished file
    <snapshot>/.quantpipe/hashes/<path>.json       hashes of its tensors: `quantpipe.checkpoint.fetched`
    <snapshot>/.quantpipe/partial/                 files in progress

Order for each file: bytes -> fsync -> receipt -> rename -> fsync of the folder. The receipt comes
first, since a rename keeps inode and mtime: an existing file without a receipt was never checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpipe import durable
from quantpipe.checkpoint.fetched import FileHashes
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.digest import OnBytes
from quantpipe.errors import VerificationError
from quantpipe.fetch.hashes import Hashes
from quantpipe.fetch.hub import RemoteFile
from quantpipe.fetch.listing import listed_file, require_inside
from quantpipe.store.manifest import FileEntry, Manifest

PRIVATE = ".quantpipe"
"""The folder inside a snapshot that is not part of the source."""


@dataclass(frozen=True)
class Stamp:
    """What shows, without reading it, that a file is unchanged.

    Attributes:
        size: bytes.
        mtime_ns: time of the last change, nanoseconds since the epoch.
        inode: its number on the filesystem.
    """

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file; of what it points to, if it is a link."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class FileReceipt:
    """What is known about a finished file.

    Attributes:
        file: its entry in the hub's list.
        stamp: of the file on disk, when its content was last known to be correct.
        sha256: of its content, hex.
        origin: for a local source, the stamp of the file that it was copied from.
    """

    file: RemoteFile
    stamp: Stamp
    sha256: str
    origin: Stamp | None = None

    def to_json(self) -> dict[str, Any]:
        """The receipt as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> FileReceipt:
        """Read what `to_json` made; raises KeyError or TypeError where it is something else."""
        origin = value["origin"]
        return cls(
            RemoteFile(**value["file"]),
            Stamp(**value["stamp"]),
            str(value["sha256"]),
            None if origin is None else Stamp(**origin),
        )


class Snapshot:
    """One snapshot; creates folders only when it writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def partial(self) -> Path:
        """The folder of partial files."""
        return self.path / PRIVATE / "partial"

    # -- the source manifest --------------------------------------------------------------------

    @property
    def manifest_path(self) -> Path:
        """The source manifest."""
        return self.path / PRIVATE / "manifest.json"

    def begin(self, files: Iterable[RemoteFile], about: dict[str, Any]) -> None:
        """Store the source manifest, unless an equal one exists.

        Args:
            about: hub, repo, revision and commit, for people and for offline runs.
        """
        value = {"algorithm": "sha256", "complete": False, **about, "files": [asdict(f) for f in files]}
        old = self.manifest()
        if old is None or old["files"] != value["files"]:
            self.partial.mkdir(parents=True, exist_ok=True)
            durable.write_json(self.manifest_path, value)

    def finish(self, receipts: Iterable[FileReceipt]) -> Manifest:
        """Complete the source manifest with the hashes that the hub did not know.

        Returns:
            The manifest of the snapshot's content.
        """
        every = list(receipts)
        content = Manifest(tuple(FileEntry(r.file.path, r.stamp.size, r.sha256) for r in every))
        value = self.manifest()
        if value is not None and not value["complete"]:
            hashes = {receipt.file.path: receipt.sha256 for receipt in every}
            files = [{**file, "sha256": hashes[file["path"]]} for file in value["files"]]
            value = {**value, "complete": True, "digest": content.digest(), "listed": value["files"]}
            durable.write_json(self.manifest_path, {**value, "files": files})
        return content

    def manifest(self) -> dict[str, Any] | None:
        """The source manifest; None before `begin`.

        Raises:
            VerificationError: it is not one.
        """
        try:
            value = load_object(self.manifest_path)
            return {**value, "files": list(value["files"]), "complete": bool(value["complete"])}
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError) as error:
            raise self._no_manifest(error) from error

    def files(self) -> tuple[RemoteFile, ...]:
        """The files of the source manifest as the hub listed them; empty before `begin`.

        Raises:
            VerificationError: it is not a source manifest.
        """
        value = self.manifest() or {"files": []}
        try:
            return tuple(require_inside(listed_file(**file) for file in value.get("listed", value["files"])))
        except (TypeError, ValueError, VerificationError) as error:
            raise self._no_manifest(error) from error

    def _no_manifest(self, why: Exception) -> VerificationError:
        return VerificationError(
            f"not a source manifest: {why}",
            where=str(self.manifest_path),
            hint="remove the snapshot's folder, then run again to fetch it anew",
        )

    # -- finished files -------------------------------------------------------------------------

    def receipt_path(self, path: str) -> Path:
        """The path of a file's receipt."""
        return self.path / PRIVATE / "receipts" / f"{path}.json"

    def receipt(self, path: str) -> FileReceipt | None:
        """The receipt of a file; None where there is none, or where it is unreadable."""
        try:
            return FileReceipt.from_json(load_object(self.receipt_path(path)))
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None

    def receipts(self) -> Iterator[FileReceipt]:
        """The receipts of all files of the source manifest that have one."""
        for file in self.files():
            if (receipt := self.receipt(file.path)) is not None:
                yield receipt

    def finished(self, file: RemoteFile) -> FileReceipt | None:
        """The receipt, if the file exists and is unchanged; reads no content."""
        receipt = self.receipt(file.path)
        if receipt is None or not same_content(receipt, file):
            return None
        try:
            return receipt if Stamp.of(self.path / file.path) == receipt.stamp else None
        except FileNotFoundError:
            return None

    def recheck(self, file: RemoteFile, on_bytes: OnBytes | None = None) -> FileReceipt | None:
        """Hash an existing file; a new receipt if it is correct, None if it is not."""
        path = self.path / file.path
        try:
            hashes = Hashes(file)
            hashes.read(path, on_bytes)
            stamp = Stamp.of(path)
        except FileNotFoundError:
            return None
        old = self.receipt(file.path)
        known = old is not None and same_content(old, file) and old.sha256 == hashes.sha256
        if hashes.mismatch() is not None or not (known or file.sha256 or file.git_sha1):
            return None
        receipt = FileReceipt(file, stamp, hashes.sha256, old.origin if old is not None and known else None)
        self._save(receipt)
        hashes.content().save(self.path, file.path)
        return receipt

    def forget(self, file: RemoteFile) -> None:
        """Drop the receipt of a file that proved wrong, so that its stamp is not trusted."""
        self.receipt_path(file.path).unlink(missing_ok=True)

    def place(self, grown: Path, receipt: FileReceipt, hashes: FileHashes | None) -> None:
        """Give a complete, checked and flushed file its final name, durably.

        Args:
            hashes: of its content, if its bytes were read.
        """
        final = self.path / receipt.file.path
        self._save(receipt)
        if hashes is not None:
            hashes.save(self.path, receipt.file.path)
        final.parent.mkdir(parents=True, exist_ok=True)
        grown.replace(final)
        durable.fsync_directory(final.parent)

    def _save(self, receipt: FileReceipt) -> None:
        path = self.receipt_path(receipt.file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_json(path, receipt.to_json())


def same_content(receipt: FileReceipt, file: RemoteFile) -> bool:
    """Whether a receipt is about the content that the hub lists for `file`."""
    if receipt.stamp.size != file.size:
        return False
    if file.sha256 is not None:
        return receipt.sha256 == file.sha256
    return receipt.file.git_sha1 == file.git_sha1 and receipt.file.sha256 is None


def remove_empty(folder: Path) -> None:
    """Remove a folder if nothing is in it."""
    if folder.is_dir() and not os.listdir(folder):  # noqa: PTH208
        folder.rmdir()
