"""Generations, as a scrub reads them: what is damaged is marked, and what proves intact loses its mark."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from quantpipe.digest import OnBytes
from quantpipe.errors import VerificationError
from quantpipe.operate.target import File, Kind, Shared, inode, is_mode
from quantpipe.store import sealed
from quantpipe.store.damaged import mark, marked, unmark
from quantpipe.store.manifest import PROVENANCE, Manifest, Mismatch, compare_sizes, scan
from quantpipe.store.verified import Verified


class GenerationTarget:
    """A sealed checkpoint, as it was at its last `glance`."""

    kind: Kind = "generation"

    def __init__(self, recipe: str, path: Path, *, current: bool) -> None:
        self.recipe: str | None = recipe
        self.path = path
        self.current = current
        self.verified = Verified.of_generation(path)
        self._inode = inode(path)
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
        beside = self._manifest.beside()
        content = {path: status for path, status in files.items() if path not in beside}
        return files, compare_sizes(content, self._manifest) + sealed.glance_at_name(
            self.path, self._manifest
        )

    def shared(self, path: str) -> Shared | None:
        """Nothing: the files of a generation have one name."""
        del path
        return None

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
        return self._inode is not None and inode(self.path) == self._inode


def _manifest(checkpoint: Path) -> tuple[Manifest, list[Mismatch]]:
    """The manifest of a generation, or why there is none."""
    try:
        return sealed.manifest_of(checkpoint), []
    except FileNotFoundError:
        return Manifest(()), [Mismatch(PROVENANCE, "is missing")]
    except VerificationError as error:
        return Manifest(()), [Mismatch(PROVENANCE, f"cannot be read: {error.what}")]
