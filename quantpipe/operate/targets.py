"""What a scrub reads: generations and snapshots, each with its files and what follows from damage."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from quantpipe.digest import OnBytes
from quantpipe.errors import VerificationError
from quantpipe.fetch.hashes import Hashes
from quantpipe.fetch.snapshot import PRIVATE, FileReceipt, Snapshot
from quantpipe.store import sealed
from quantpipe.store.damaged import mark, marked, unmark
from quantpipe.store.manifest import PROVENANCE, Manifest, Mismatch, compare_sizes, scan
from quantpipe.store.store import Store
from quantpipe.store.verified import FOLDER, Verified

Kind = Literal["generation", "snapshot"]


class File(NamedTuple):
    """A file to read: its path in the target, its size in bytes, and when it was last found right."""

    path: str
    size: int
    last: float | None


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


class GenerationTarget:
    """A sealed checkpoint, as it was at its last `glance`."""

    kind: Kind = "generation"

    def __init__(self, recipe: str, path: Path, *, current: bool) -> None:
        self.recipe: str | None = recipe
        self.path = path
        self.current = current
        self.verified = Verified.of_generation(path)
        self._inode = _inode(path)
        self._manifest, self._defects = _manifest(path)
        self._marked = marked(path)
        self._wrong: list[Mismatch] = []

    def files(self) -> list[File]:
        """The manifest's, as far as their sizes are right; those that are marked count as never verified."""
        wrong = {mismatch.path for mismatch in self._wrong}
        doubtful = {mismatch.path for mismatch in self._marked}
        return [
            File(e.path, e.size, None if e.path in doubtful else self.verified.time(e.path))
            for e in self._manifest.entries
            if e.path not in wrong
        ]

    def glance(self) -> list[Mismatch]:
        """Names, sizes, modes, and whether the directory's name is the manifest's digest."""
        files, self._wrong = self._look()
        if files is None or not self.same():
            return self._wrong
        try:
            return self._wrong + sealed.compare_modes(self.path, files)
        except FileNotFoundError:
            return self._wrong

    def _look(self) -> tuple[Mapping[str, os.stat_result] | None, list[Mismatch]]:
        """One pass over the files, None where there is none; and what is wrong with names and sizes."""
        try:
            files = scan(self.path)
        except FileNotFoundError:
            return None, self._defects
        except VerificationError as error:
            return None, self._defects or [Mismatch(Path(error.where or "").name, error.what)]
        if self._defects:
            return files, self._defects
        content = {path: status for path, status in files.items() if path != PROVENANCE}
        return files, compare_sizes(content, self._manifest) + sealed.glance_at_name(
            self.path, self._manifest
        )

    def check(self, path: str, on_bytes: OnBytes) -> Mismatch | None:
        """Against the manifest."""
        entry = next(entry for entry in self._manifest.entries if entry.path == path)
        try:
            return sealed.check_file(self.path, entry, on_bytes)
        except FileNotFoundError:
            return Mismatch(path, "is missing")

    def damaged(self, found: Sequence[Mismatch]) -> None:
        """Mark it. A wrong mode alone is no damage: the content need not be made again."""
        content = [mismatch for mismatch in found if not is_mode(mismatch)]
        if content and self.same():
            both = {mismatch.path: mismatch for mismatch in [*marked(self.path), *content]}
            mark(self.path, list(both.values()))

    def intact(self, read: Iterable[str]) -> None:
        """Remove the mark, if all that it names was read or is gone from the manifest's point of view."""
        named = {mismatch.path for mismatch in self._marked}
        if named and not (named & set(self._manifest.paths())) - set(read) and not self._look()[1]:
            unmark(self.path)

    def same(self) -> bool:
        """By the inode of its directory: a new copy takes the place by an exchange of directories."""
        return self._inode is not None and _inode(self.path) == self._inode


class SnapshotTarget:
    """The fetched files of a source; those without a receipt are fetch's, not ours."""

    kind: Kind = "snapshot"

    def __init__(self, path: Path) -> None:
        self.recipe: str | None = None
        self.path = path
        self.current = False
        self.verified = Verified(path / PRIVATE / f"{FOLDER}.json")
        self._snapshot = Snapshot(path)
        self._inode = _inode(path)
        self._receipts: dict[str, FileReceipt] = {}
        self._defects: list[Mismatch] = []
        try:
            self._receipts = {r.file.path: r for r in self._snapshot.receipts()}
        except VerificationError as error:
            self._defects = [Mismatch(f"{PRIVATE}/manifest.json", error.what)]

    def files(self) -> list[File]:
        """Those that are there and have a receipt."""
        return [
            File(path, receipt.stamp.size, self.verified.time(path))
            for path, receipt in sorted(self._receipts.items())
            if (self.path / path).is_file()
        ]

    def glance(self) -> list[Mismatch]:
        """Its manifest can be read. A missing file is nothing to find: the next run fetches it."""
        return self._defects

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
        return self._inode is not None and _inode(self.path) == self._inode


def targets(store: Store, recipes: Sequence[str] | None) -> Iterator[Target]:
    """All generations and snapshots, or those of some recipes."""
    for recipe in store.recipes() if recipes is None else recipes:
        current = store.current(recipe)
        for path in store.generation_folders(recipe):
            target = GenerationTarget(recipe, path, current=path == current)
            if target.same():
                yield target
    snapshots = store.root.glob("sources/*/*/*") if recipes is None else _snapshots_of(store, recipes)
    for path in sorted(snapshots):
        if (path / PRIVATE / "manifest.json").is_file():
            yield SnapshotTarget(path)


def is_mode(mismatch: Mismatch) -> bool:
    """Whether only the permission bits are wrong."""
    return mismatch.problem.startswith("has mode ")


def _snapshots_of(store: Store, recipes: Sequence[str]) -> set[Path]:
    found = set()
    for recipe in recipes:
        receipts = [
            store.load_receipts(recipe, path.name).get("fetch") for path in store.generation_folders(recipe)
        ]
        receipts += [run.load("fetch") for run in store.runs(recipe)]
        found |= {store.absolute(receipt.outputs.snapshot) for receipt in receipts if receipt is not None}
    return found


def _manifest(checkpoint: Path) -> tuple[Manifest, list[Mismatch]]:
    """The manifest of a generation, or why there is none."""
    try:
        return sealed.manifest_of(checkpoint), []
    except FileNotFoundError:
        return Manifest(()), [Mismatch(PROVENANCE, "is missing")]
    except VerificationError as error:
        return Manifest(()), [Mismatch(PROVENANCE, f"cannot be read: {error.what}")]


def _difference(receipt: FileReceipt, file: Path, on_bytes: OnBytes | None) -> str | None:
    hashes = Hashes(receipt.file)
    hashes.read(file, on_bytes)
    if (problem := hashes.mismatch()) is not None:
        return problem
    if hashes.sha256 != receipt.sha256:
        return f"sha256 {hashes.sha256} instead of {receipt.sha256}"
    return None


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise
