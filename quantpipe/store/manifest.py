"""Manifests: the path, size and SHA-256 of every file of a snapshot or a checkpoint.

A manifest is what a directory is named by and checked against, so its laws are strict: entries are
sorted by path, paths are relative and POSIX, and the digest depends on nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from quantpipe.digest import OnBytes, digest_of, hash_file
from quantpipe.durable import TEMPORARY_PREFIX
from quantpipe.errors import VerificationError

PROVENANCE = "quantpipe.json"
"""In every generation: its manifest and where it came from. Not part of the manifest itself."""

CARD = "README.md"
"""In a generation: its model card. Not part of the manifest either, unless that names it."""


@dataclass(frozen=True, order=True)
class FileEntry:
    """One file.

    Attributes:
        path: relative to the root, POSIX.
        size: in bytes.
        sha256: of its content, in hex.
    """

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if not {"", ".", ".."}.isdisjoint(self.path.split("/")):
            raise VerificationError(
                f"manifest path {self.path!r} is not a plain relative path",
                hint="the manifest was made by something else or tampered with: do not trust the directory",
            )


class ManifestJson(TypedDict):
    """A manifest as JSON has it.

    Attributes:
        algorithm: always `sha256`.
        files: sorted by path.
    """

    algorithm: str
    files: list[FileEntry]


@dataclass(frozen=True)
class Manifest:
    """The files of a directory, sorted by path, each path once."""

    entries: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.entries))
        if len({entry.path for entry in ordered}) != len(ordered):
            raise VerificationError("the manifest names a path twice")
        object.__setattr__(self, "entries", ordered)

    @property
    def total_bytes(self) -> int:
        """The sum of the sizes, in bytes."""
        return sum(entry.size for entry in self.entries)

    def paths(self) -> list[str]:
        """The paths, sorted."""
        return [entry.path for entry in self.entries]

    def beside(self) -> tuple[str, ...]:
        """The files of a generation that the manifest does not name: they are written when it is sealed."""
        listed = set(self.paths())
        return tuple(path for path in (PROVENANCE, CARD) if path not in listed)

    def digest(self) -> str:
        """SHA-256, in hex, of the canonical JSON of the entries.

        Equal directories have equal digests, on every host and in every order of creation.
        """
        return digest_of(self.to_json()["files"])

    def to_json(self) -> dict[str, Any]:
        """A JSON object: `{"algorithm": "sha256", "files": [{"path", "size", "sha256"}, ...]}`."""
        files = [{"path": e.path, "size": e.size, "sha256": e.sha256} for e in self.entries]
        return {"algorithm": "sha256", "files": files}

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> Manifest:
        """Read what `to_json` made.

        Args:
            where: the file it came from, for the error.

        Raises:
            VerificationError: it is not a manifest.
        """
        try:
            if value["algorithm"] != "sha256":
                raise ValueError(f"unknown algorithm {value['algorithm']!r}")
            return cls(tuple(FileEntry(f["path"], int(f["size"]), str(f["sha256"])) for f in value["files"]))
        except (KeyError, TypeError, ValueError) as error:
            raise VerificationError(
                f"not a manifest: {error!r}", where=where, hint="restore the file, or run the stage again"
            ) from error


@dataclass(frozen=True)
class Mismatch:
    """One way in which a directory differs from its manifest.

    Attributes:
        path: of the file, relative to the directory.
        problem: what is wrong with it.
    """

    path: str
    problem: str

    def line(self) -> str:
        """For people."""
        return f"{self.path} {self.problem}"


def list_files(root: Path, *, exclude: Iterable[str] = ()) -> list[str]:
    """The regular files below `root`, as sorted relative POSIX paths.

    Temporary files of a write in flight are left out, and so are the paths in `exclude` (files, or
    directories with all that they hold).

    Raises:
        VerificationError: there is something that is neither a file nor a directory, such as a link.
        OSError: a directory is not there or cannot be read.
    """
    return sorted(path for path, _ in _entries(root, set(exclude)))


def scan(root: Path, *, exclude: Iterable[str] = ()) -> dict[str, os.stat_result]:
    """The files as `list_files`, each with its status: one stat for each."""
    found = {path: entry.stat(follow_symlinks=False) for path, entry in _entries(root, set(exclude))}
    return dict(sorted(found.items()))


def _entries(root: Path, skipped: set[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Regular files by relative path. Types come with the names: no stat is needed for them."""
    folders = [("", str(root))]
    while folders:
        base, folder = folders.pop()
        with os.scandir(folder) as listed:
            for entry in listed:
                path = base + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if path not in skipped:
                        folders.append((f"{path}/", entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    raise VerificationError(
                        "neither a plain file nor a directory",
                        where=entry.path,
                        hint="a checkpoint holds plain files only: replace links by what they point to",
                    )
                elif path not in skipped and not entry.name.startswith(TEMPORARY_PREFIX):
                    yield path, entry


def build(root: Path, *, jobs: int, exclude: Iterable[str] = (), on_bytes: OnBytes | None = None) -> Manifest:
    """Hash every file below `root`, `jobs` at a time.

    Raises:
        VerificationError: `root` holds something other than files and directories.
        OSError: a file cannot be read.
    """
    paths = list_files(root, exclude=exclude)

    def entry(path: str) -> FileEntry:
        file = root / path
        return FileEntry(path, file.stat().st_size, hash_file(file, on_bytes))

    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        return Manifest(tuple(pool.map(entry, paths)))


def glance(root: Path, manifest: Manifest, *, exclude: Iterable[str] = ()) -> list[Mismatch]:
    """Compare a directory with its manifest by names and sizes; nothing is read."""
    return compare_sizes(scan(root, exclude=exclude), manifest)


def compare_sizes(files: Mapping[str, os.stat_result], manifest: Manifest) -> list[Mismatch]:
    """Compare the result of a `scan` with the manifest, by names and sizes."""
    found = [Mismatch(path, "is not in the manifest") for path in files.keys() - set(manifest.paths())]
    for entry in manifest.entries:
        if entry.path not in files:
            found.append(Mismatch(entry.path, "is missing"))
        elif (size := files[entry.path].st_size) != entry.size:
            found.append(Mismatch(entry.path, f"has {size:,} bytes instead of {entry.size:,}"))
    return sorted(found, key=lambda mismatch: mismatch.path)


def check(
    root: Path,
    manifest: Manifest,
    *,
    jobs: int,
    exclude: Iterable[str] = (),
    on_bytes: OnBytes | None = None,
    hashed: Mapping[str, str] | None = None,
) -> list[Mismatch]:
    """Compare a directory with its manifest: missing, unexpected, resized and altered files.

    Args:
        hashed: the SHA-256 of files that somebody has just read for other reasons, by path.
    """
    known = hashed or {}
    found = glance(root, manifest, exclude=exclude)
    wrong = {mismatch.path for mismatch in found}

    def compare(entry: FileEntry) -> Mismatch | None:
        actual = known.get(entry.path) or hash_file(root / entry.path, on_bytes)
        if actual != entry.sha256:
            return Mismatch(entry.path, f"has sha256 {actual} instead of {entry.sha256}")
        return None

    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        compared = pool.map(compare, (entry for entry in manifest.entries if entry.path not in wrong))
        found += [mismatch for mismatch in compared if mismatch is not None]
    return sorted(found, key=lambda mismatch: mismatch.path)
