"""Paths on shared storage, the sealing of checkpoints, and the pointer that servers follow.

    <store>/sources/<hub>/<owner>--<name>/<commit>/      snapshot
    <store>/models/<recipe>/<manifest digest>/           generation: a sealed checkpoint
    <store>/models/<recipe>/current                      pointer: relative link, replaced by rename
    <store>/models/<recipe>/receipts/<digest>.json       receipts of the run that published it
    <store>/runs/<recipe>/<run id>/                      staging, state, events.jsonl, logs

Ordering: a checkpoint is flushed before it gets its digest name, the name is flushed before the
pointer moves, and only renames within one filesystem are used. Readers see old or new, never half.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from quantpipe import durable
from quantpipe.errors import VerificationError
from quantpipe.store.receipt import Receipts, RunDirectory, read_receipt_file

PROVENANCE = "quantpipe.json"
"""In every generation: its manifest and where it came from. Not part of the manifest itself."""

SPARE_BYTES = 64 << 20
"""Free space that has to stay: for logs, receipts and what others write meanwhile."""

_POINTER = "current"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Generation:
    """A sealed checkpoint of a recipe.

    Attributes:
        published: when it last became current, seconds since the epoch; None if it never was: only one
            that was is rolled back to.
        sealed: when it was sealed, seconds since the epoch.
    """

    digest: str
    path: Path
    current: bool
    published: float | None
    sealed: float

    @property
    def age_key(self) -> tuple[float, str]:
        """Sorts generations by when they were published, or sealed where they never were."""
        return (self.sealed if self.published is None else self.published, self.digest)


class Store:
    """The store below one root directory. Makes directories only when it writes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def relative(self, path: Path) -> str:
        """`path` relative to the store, as receipts hold it: a store may be mounted elsewhere."""
        return path.relative_to(self.root).as_posix()

    def absolute(self, relative: str) -> Path:
        """The path behind a receipt's relative path."""
        return self.root / relative

    # -- sources and runs -----------------------------------------------------------------------

    def snapshot(self, hub: str, repo: str, commit: str) -> Path:
        """Where the snapshot of a source at a commit lies."""
        return self.root / "sources" / hub / repo.strip("/").replace("/", "--") / commit

    def new_run(self, recipe: str) -> RunDirectory:
        """A run directory with a fresh id: UTC time (microseconds: names have to sort) and random digits."""
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        run = RunDirectory(self.root / "runs" / recipe / f"{stamp}-{secrets.token_hex(3)}")
        run.create()
        return run

    def runs(self, recipe: str) -> list[RunDirectory]:
        """The runs of a recipe, oldest first."""
        folder = self.root / "runs" / recipe
        if not folder.is_dir():
            return []
        return [RunDirectory(path) for path in sorted(folder.iterdir()) if path.is_dir()]

    def recipes(self) -> list[str]:
        """The names of the recipes that have runs or checkpoints here."""
        names: set[str] = set()
        for kind in ("models", "runs"):
            folder = self.root / kind
            if folder.is_dir():
                names.update(path.name for path in folder.iterdir() if path.is_dir())
        return sorted(names)

    # -- generations ----------------------------------------------------------------------------

    def model(self, recipe: str) -> Path:
        """The folder of a recipe's generations and pointer."""
        return self.root / "models" / recipe

    def generation(self, recipe: str, digest: str) -> Path:
        """Where the generation with this manifest digest lies."""
        return self.model(recipe) / digest

    def generations(self, recipe: str) -> list[Generation]:
        """The sealed checkpoints of a recipe, the one that was published longest ago first."""
        folder = self.model(recipe)
        if not folder.is_dir():
            return []
        current = self.current(recipe)
        found = []
        for path in folder.iterdir():
            if not _DIGEST.fullmatch(path.name):
                continue
            published = _modified(self.receipts_path(recipe, path.name))
            sealed = _modified(path / PROVENANCE)
            if sealed is not None:  # another run may be removing it right now
                found.append(Generation(path.name, path, path == current, published, sealed))
        return sorted(found, key=lambda generation: generation.age_key)

    def seal(self, staging: Path, recipe: str, digest: str, provenance: dict[str, Any]) -> Path:
        """Turn a verified staging directory into a generation; afterwards it never changes.

        An equal generation that is there already is success, and `staging` is removed: publishing
        the same content twice, or from two hosts at once, gives one directory.
        """
        target = self.generation(recipe, digest)
        self._make_model_folder(recipe)
        if not target.is_dir():
            durable.write_json(staging / PROVENANCE, provenance)
            for directory, _, files in os.walk(staging):
                for name in files:
                    if name.startswith(durable.TEMPORARY_PREFIX):  # of a write that was killed
                        Path(directory, name).unlink()
                    else:
                        Path(directory, name).chmod(0o444)
                Path(directory).chmod(0o755)
            durable.fsync_tree(staging)
            try:
                staging.rename(target)
            except OSError:
                if not target.is_dir():
                    raise
            durable.fsync_directory(target.parent)
        shutil.rmtree(staging, ignore_errors=True)
        return target

    def _make_model_folder(self, recipe: str) -> None:
        """Servers run under other uids: whatever the umask, they may pass through the folders made here."""
        for folder in (self.root / "models", self.model(recipe)):
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o755)
                durable.fsync_directory(folder.parent)

    def provenance(self, checkpoint: Path) -> dict[str, Any] | None:
        """The provenance of a checkpoint; None where quantpipe did not make it.

        Raises:
            VerificationError: the file is not JSON.
        """
        path = checkpoint / PROVENANCE
        if not path.is_file():
            return None
        try:
            value = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise VerificationError(f"not JSON: {error}", where=str(path)) from error
        return value if isinstance(value, dict) else None

    # -- the pointer ----------------------------------------------------------------------------

    def pointer(self, recipe: str) -> Path:
        """The link that servers follow."""
        return self.model(recipe) / _POINTER

    def current(self, recipe: str) -> Path | None:
        """The generation that the pointer names; None before the first publish.

        Raises:
            VerificationError: there is something else than a link.
        """
        try:
            name = self.pointer(recipe).readlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise VerificationError(
                f"the pointer is not a link: {error.strerror}",
                where=str(self.pointer(recipe)),
                hint="a copy of the store that follows links makes such: remove it, then run again",
            ) from error
        target = self.model(recipe) / name
        return target if target.is_dir() else None

    def point(self, recipe: str, digest: str) -> None:
        """Let the pointer name a generation, atomically and durably.

        Raises:
            VerificationError: there is no such generation; the pointer is as it was.
        """
        folder = self.model(recipe)
        if not (folder / digest / PROVENANCE).is_file():
            raise VerificationError(
                "the generation to point at is not there",
                where=str(folder / digest),
                hint="`quantpipe status` lists the generations; a run makes it again",
            )
        temporary = folder / f"{durable.TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            temporary.symlink_to(digest)
            temporary.replace(folder / _POINTER)
        finally:
            temporary.unlink(missing_ok=True)
        durable.fsync_directory(folder)

    def receipts_path(self, recipe: str, digest: str) -> Path:
        """Where the receipts of a published generation lie."""
        return self.model(recipe) / "receipts" / f"{digest}.json"

    def save_receipts(self, recipe: str, digest: str, receipts: Receipts) -> None:
        """Keep the receipts of the run that published a generation."""
        path = self.receipts_path(recipe, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_json(path, receipts.to_json())

    def load_receipts(self, recipe: str, digest: str) -> Receipts:
        """The receipts of a published generation; empty where it was never published.

        Raises:
            VerificationError: the file holds something else.
        """
        path = self.receipts_path(recipe, digest)
        if not path.is_file():
            return Receipts()
        return Receipts.from_json(read_receipt_file(path), where=str(path))

    def published_receipts(self, recipe: str) -> list[Receipts]:
        """The receipts of all published generations, the current one's first, then the newest."""
        published = [g for g in self.generations(recipe) if g.published is not None]
        published.sort(key=lambda generation: (generation.current, generation.age_key), reverse=True)
        return [self.load_receipts(recipe, generation.digest) for generation in published]


def _modified(path: Path) -> float | None:
    """When a file was written, seconds since the epoch; None where there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
