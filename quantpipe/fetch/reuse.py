"""Files that need not be fetched: existing ones, and those that another snapshot of the repository has."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from quantpipe import durable
from quantpipe.checkpoint.fetched import FileHashes
from quantpipe.digest import OnBytes
from quantpipe.fetch.hub import RemoteFile
from quantpipe.fetch.parallel import each
from quantpipe.fetch.partial import file_id
from quantpipe.fetch.snapshot import PRIVATE, FileReceipt, Snapshot, remove_empty
from quantpipe.store.owner import Owner


class Linkable(NamedTuple):
    """A file that another snapshot holds: its receipt there."""

    file: RemoteFile
    other: Snapshot
    receipt: FileReceipt


def keep(
    snapshot: Snapshot,
    files: Iterable[RemoteFile],
    *,
    deep: bool,
    jobs: int,
    on_bytes: OnBytes | None = None,
) -> set[str]:
    """The paths of files that exist and are correct.

    A matching receipt is trusted. A file without one (its inode number may have changed with a mount) is
    hashed; a file that proves wrong is removed.

    Args:
        deep: hash every file again.
        jobs: files hashed at a time.
    """

    def right(file: RemoteFile, count: OnBytes) -> str | None:
        path = snapshot.path / file.path
        if not deep and snapshot.finished(file) is not None:
            return file.path
        if path.is_file() and snapshot.recheck(file, count) is not None:
            return file.path
        path.unlink(missing_ok=True)
        snapshot.forget(file)
        return None

    with contextlib.closing(each(right, files, jobs=jobs, on_bytes=on_bytes)) as found:
        return {path for path in found if path is not None}


def link(
    snapshot: Snapshot, files: Iterable[RemoteFile], *, jobs: int, on_bytes: OnBytes | None = None
) -> set[str]:
    """Hard-link files that another snapshot of the same repository holds; the paths of the linked ones.

    A snapshot's files never change, so that two snapshots may share them. Each is hashed first: its stamp
    would not show that it has rotted. One that has is not linked, and its own snapshot forgets its receipt.

    Args:
        jobs: files hashed at a time.
    """

    def linked(found: Linkable, count: OnBytes) -> str | None:
        receipt = found.other.recheck(found.receipt.file, count)
        if receipt is None:
            found.other.forget(found.receipt.file)
            return None
        with contextlib.suppress(OSError):  # no hard links here, or too many: it is fetched
            _link_one(snapshot, found.file, found.other, receipt)
            return found.file.path
        return None

    with contextlib.closing(each(linked, linkable(snapshot, files), jobs=jobs, on_bytes=on_bytes)) as done:
        return {path for path in done if path is not None}


def linkable(snapshot: Snapshot, files: Iterable[RemoteFile]) -> list[Linkable]:
    """The files that another snapshot of the same repository holds, and where; reads receipts only."""
    wanted = list(files)
    if not wanted:
        return []
    held = {_content(r.file, r.sha256): (other, r) for other, r in _siblings(snapshot)}
    found = []
    for file in wanted:
        other, receipt = held.get(_content(file, file.sha256), (None, None))
        if other is not None and receipt is not None and other.finished(receipt.file) is not None:
            found.append(Linkable(file, other, receipt))
    return found


def sweep_partial(snapshot: Snapshot, missing: Iterable[RemoteFile]) -> None:
    """Remove partial files that no missing file needs. Only while holding the snapshot's lease."""
    needed = {file_id(file) for file in missing}
    if snapshot.partial.is_dir():
        for path in snapshot.partial.iterdir():
            if path.name.partition(".")[0] not in needed and _abandoned(path):
                path.unlink(missing_ok=True)


def _abandoned(partial: Path) -> bool:
    """Whether nobody writes it. One of another host is abandoned: its lease expired, or we had none."""
    owner = Owner.from_token(partial.suffix[1:])
    living = owner is not None and owner.on_this_host() and owner.may_live()
    return not living or owner == Owner.from_token(Owner.me().token)


def partial_bytes(snapshot: Snapshot) -> int:
    """The bytes that partial files contain already."""
    if not snapshot.partial.is_dir():
        return 0
    return sum(path.stat().st_size for path in snapshot.partial.iterdir())


def sweep(snapshot: Snapshot, files: Iterable[RemoteFile]) -> None:
    """Remove what a finished snapshot must not contain: partial and temporary files, files of no manifest."""
    known = {file.path for file in files}
    sweep_partial(snapshot, ())
    for directory, folders, names in os.walk(snapshot.path, topdown=False):
        base = os.path.relpath(directory, snapshot.path)
        private = base == PRIVATE or base.startswith(PRIVATE + os.sep)
        for name in names:
            relative = name if base == "." else f"{base}/{name}"
            stale = name.startswith(durable.TEMPORARY_PREFIX)
            if stale or (not private and relative not in known):
                with contextlib.suppress(OSError):  # NFS keeps a name for what another process has open
                    os.unlink(os.path.join(directory, name))  # noqa: PTH108, PTH118
        for folder in folders:
            with contextlib.suppress(OSError):
                remove_empty(snapshot.path / base / folder)


def _content(file: RemoteFile, sha256: str | None) -> tuple[str, int]:
    """What names content across commits: the hub's own hash, whichever it gives."""
    return (file.sha256 or file.git_sha1 or sha256 or "", file.size)


def _siblings(snapshot: Snapshot) -> Iterator[tuple[Snapshot, FileReceipt]]:
    parent = snapshot.path.parent
    if not parent.is_dir():
        return
    for path in sorted(parent.iterdir()):
        if path != snapshot.path and (path / PRIVATE / "manifest.json").is_file():
            other = Snapshot(path)
            for receipt in other.receipts():
                yield other, receipt


def _link_one(snapshot: Snapshot, file: RemoteFile, other: Snapshot, receipt: FileReceipt) -> None:
    temporary = snapshot.partial / f"{file_id(file)}.link-{secrets.token_hex(8)}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    os.link(other.path / receipt.file.path, temporary)
    hashes = FileHashes.load(other.path, receipt.file.path)
    snapshot.place(temporary, FileReceipt(file, receipt.stamp, receipt.sha256, receipt.origin), hashes)
