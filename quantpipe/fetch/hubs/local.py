"""Local directories as a hub. The commit of a directory is the digest of its manifest.

Hashing 470 GB takes minutes, and a refresh has to end within a second: known hashes (by size,
mtime and inode) are kept, in the receipts of snapshots and in a small table next to them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from quantpipe import durable
from quantpipe.checkpoint.strict_json import MAX_JSON_BYTES, load
from quantpipe.digest import OnBytes, hash_file
from quantpipe.errors import VerificationError
from quantpipe.fetch import sanity
from quantpipe.fetch.hub import RemoteFile, Sink
from quantpipe.fetch.hubs.directory import private, require_links_inside, walk
from quantpipe.fetch.parallel import each
from quantpipe.fetch.snapshot import Snapshot, Stamp
from quantpipe.fetch.sources import Select
from quantpipe.store.manifest import FileEntry, Manifest

_CHUNK = 4 << 20
_SAVE_EVERY = 1 << 30

Known = dict[tuple[str, Stamp], str]
"""SHA-256 by path and stamp."""


class LocalHub:
    """A directory of this machine, or of a mount.

    Args:
        store: root of the store, for known hashes.
        select: which files are needed: only these are hashed.
        jobs: files hashed at a time.
        save_every: bytes hashed after which the table is written, so that a killed run does not start over.
    """

    name = "local"

    def __init__(
        self,
        store: Path,
        select: Select,
        *,
        jobs: int,
        save_every: int = _SAVE_EVERY,
    ) -> None:
        self._store = store
        self._select = select
        self._save_every = save_every
        self._origins: dict[str, Stamp] = {}
        self._listed: tuple[RemoteFile, ...] = ()
        self.parallel = jobs

    def describe(self, repo: str) -> str:
        """The directory."""
        return f"directory {_root(repo)}"

    def folder(self, repo: str) -> str:
        """The last two parts of the path: `/data/models/Qwen3-30B-A3B` is `models/Qwen3-30B-A3B`."""
        parts = ("root", *_root(repo).parts[1:])[-2:]
        return "/".join(re.sub(r"[^\w.-]", "-", part).lstrip(".") or "root" for part in parts)

    def glance(self, repo: str) -> tuple[tuple[RemoteFile, ...], int]:
        """The needed files with known hashes, and the number of bytes without one; reads no content.

        Raises:
            RecipeError: the directory is missing, holds no safetensors, or a link in it leads elsewhere.
        """
        root = _root(repo)
        known = self._known(repo)
        self._origins = {path: Stamp.of(root / path) for path in walk(root)}
        needed = self._select(RemoteFile(path, stamp.size) for path, stamp in self._origins.items())
        require_links_inside(root, [file.path for file in needed])
        files = tuple(
            RemoteFile(file.path, file.size, known.get((file.path, self._origins[file.path])))
            for file in needed
        )
        return files, sum(file.size for file in files if file.sha256 is None)

    def private(self, repo: str, files: Iterable[RemoteFile]) -> list[str]:
        """The files that not everybody may read now, and everybody could once they are published."""
        return private(_root(repo), [file.path for file in files])

    def resolve(self, repo: str, revision: str | None = None, *, on_bytes: OnBytes | None = None) -> str:
        """The digest of the manifest of the needed files; hashes only what is not known yet.

        Args:
            on_bytes: receives the number of bytes hashed.

        Raises:
            RecipeError: the directory is missing, or holds no safetensors.
            VerificationError: a shard is truncated, or the index names one that is missing.
        """
        files, unknown = self.glance(repo)
        if unknown or any(file.sha256 is None for file in files):
            root = _root(repo)
            _explained(root, [file.path for file in files])
            files = self._hashed(repo, files, on_bytes)
        self._listed = files
        return Manifest(tuple(FileEntry(file.path, file.size, file.sha256 or "") for file in files)).digest()

    def list(self, repo: str, commit: str) -> tuple[RemoteFile, ...]:
        """The needed files, with their hashes."""
        if not self._listed:
            self.resolve(repo)
        return self._listed

    def read(self, repo: str, commit: str, path: str) -> bytes:
        """The content of a file."""
        return durable.read_bytes(_root(repo) / path, most=MAX_JSON_BYTES)

    def origin(self, path: str) -> Stamp | None:
        """The stamp of the file in the directory, as it was listed."""
        return self._origins.get(path)

    def fetch(self, repo: str, commit: str, file: RemoteFile, sink: Sink) -> None:
        """Reflink the file, or copy what is missing of it.

        Raises:
            VerificationError: the file changed since it was hashed.
        """
        path = _root(repo) / file.path
        self._unchanged(path, file)
        if not (sink.offset == 0 and file.sha256 is not None and sink.clone(path, file.sha256)):
            buffer = memoryview(bytearray(_CHUNK))
            with path.open("rb", buffering=0) as source:
                source.seek(sink.offset)
                while count := source.readinto(buffer):
                    sink.write(buffer[:count])
        self._unchanged(path, file)

    def close(self) -> None:
        """Nothing is open."""

    def _unchanged(self, path: Path, file: RemoteFile) -> None:
        try:
            same = Stamp.of(path) == self._origins[file.path]
        except FileNotFoundError:
            same = False
        if not same:
            raise VerificationError(
                "the file changed while it was being copied",
                where=str(path),
                hint="wait until the directory is complete, then run again",
            )

    # -- known hashes ---------------------------------------------------------------------------

    def _table(self, repo: str) -> Path:
        return self._store / "sources" / "local" / self.folder(repo).replace("/", "--") / "hashes.json"

    def _known(self, repo: str) -> Known:
        known: Known = {}
        table = self._table(repo)
        try:
            for path, size, mtime_ns, inode, sha256 in load(table):
                known[path, Stamp(size, mtime_ns, inode)] = sha256
        except (FileNotFoundError, ValueError, TypeError):
            pass
        if table.parent.is_dir():
            for folder in table.parent.iterdir():
                if (folder / ".quantpipe").is_dir():
                    known.update(_origins_of(Snapshot(folder)))
        return known

    def _hashed(
        self, repo: str, files: tuple[RemoteFile, ...], on_bytes: OnBytes | None
    ) -> tuple[RemoteFile, ...]:
        root = _root(repo)
        done: dict[str, str] = {file.path: file.sha256 for file in files if file.sha256 is not None}
        unsaved = 0
        todo = [file for file in files if file.sha256 is None]
        hashes = each(
            lambda file, count: hash_file(root / file.path, count),
            todo,
            jobs=self.parallel,
            on_bytes=on_bytes,
        )
        with contextlib.closing(hashes):
            for file, sha256 in zip(todo, hashes, strict=True):
                self._unchanged(root / file.path, file)
                done[file.path] = sha256
                unsaved += file.size
                if unsaved >= self._save_every:
                    self._save(repo, done)
                    unsaved = 0
        if unsaved and self._table(repo).parent.is_dir():
            self._save(repo, done)
        return tuple(RemoteFile(file.path, file.size, done[file.path]) for file in files)

    def _save(self, repo: str, done: dict[str, str]) -> None:
        rows = []
        for path, sha256 in done.items():
            stamp = self._origins[path]
            rows.append([path, stamp.size, stamp.mtime_ns, stamp.inode, sha256])
        table = self._table(repo)
        table.parent.mkdir(parents=True, exist_ok=True)
        durable.write_json(table, rows)


def _root(repo: str) -> Path:
    return Path(repo).expanduser().absolute()


def _explained(root: Path, paths: list[str]) -> None:
    try:
        sanity.check_weights(root, paths)
    except VerificationError as error:
        raise VerificationError(
            error.what,
            where=str(root / error.where) if error.where else str(root),
            hint="complete the directory (copy or download it again), then run again",
            details=error.details,
        ) from error


def _origins_of(snapshot: Snapshot) -> Known:
    return {
        (receipt.file.path, receipt.origin): receipt.sha256
        for receipt in snapshot.receipts()
        if receipt.origin is not None
    }
