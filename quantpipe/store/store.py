"""Paths on shared storage, the sealing of checkpoints, and the pointer that servers follow.

    <store>/sources/<hub>/<owner>--<name>/<commit>/      snapshot
    <store>/models/<recipe>/<manifest digest>/           generation: a sealed checkpoint
    <store>/models/<recipe>/current                      pointer: relative link, replaced by rename
    <store>/models/<recipe>/history/                     the moves of the pointer, one file each
    <store>/models/<recipe>/receipts/<digest>.json       receipts of the run that published it
    <store>/models/<recipe>/reports/<digest>/            its report: JSON, page and text
    <store>/models/<recipe>/scrub/<digest>.json          when each of its files was last read back
    <store>/models/<recipe>/damaged/<digest>.json        how it differs from its manifest, where it does
    <store>/runs/<recipe>/<run id>/                      staging, state, events.jsonl, logs

Ordering: a checkpoint is flushed before it gets its digest name, the name is flushed before the
pointer moves, and only renames within one filesystem are used. Readers see old or new, never half.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from quantpipe import durable
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.errors import VerificationError
from quantpipe.store import folders
from quantpipe.store.faults import storage_faults
from quantpipe.store.manifest import PROVENANCE
from quantpipe.store.pointer import RECEIPTS, Pointer
from quantpipe.store.receipt import Receipts, RunDirectory, read_receipt_file
from quantpipe.store.seal import seal
from quantpipe.store.stamps import Stamps

REPORTS = "reports"
"""The folder of a recipe with a report for each published generation, and that of the whole store."""

SPARE_BYTES = 64 << 20
"""Free space to keep in reserve: for logs, receipts and what others write meanwhile."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Generation:
    """A sealed checkpoint of a recipe.

    Attributes:
        rank: its place in the order of being current, from 0, the present one last; None if it never was
            current: only one that was is rolled back to.
        sealed: when it was sealed, seconds since the epoch.
    """

    digest: str
    path: Path
    current: bool
    rank: int | None
    sealed: float

    @property
    def sort_key(self) -> tuple[int, float, str]:
        """Sorts generations by when they were last current; those that never were come first, by age."""
        return (-1 if self.rank is None else self.rank, self.sealed, self.digest)


class Store:
    """The store below one root directory. Creates directories only when it writes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def at(cls, root: Path) -> Store:
        """The store below a root, which need not exist yet.

        Raises:
            PreflightError, RetryableError: something else has its name: a link to a mount that is away, say.
        """
        with storage_faults(root):
            folders.require_folder(root)
        return cls(root)

    def relative(self, path: Path) -> str:
        """`path` relative to the store, as receipts hold it: a store may be mounted elsewhere."""
        return path.relative_to(self.root).as_posix()

    def absolute(self, relative: str) -> Path:
        """The absolute path of a receipt's relative path."""
        return self.root / relative

    def clock(self) -> float:
        """The time by the file server, which also gives the files their times; seconds since the epoch.

        The clock of a host may be hours or days off. It is the fallback where nothing can be written.
        """
        mark = self.root / f"{durable.TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            mark.touch()
            return mark.stat().st_mtime
        except OSError:
            return time.time()
        finally:
            with contextlib.suppress(OSError):
                mark.unlink(missing_ok=True)

    def create_model(self, recipe: str) -> None:
        """Make the folder of a recipe's generations and pointer."""
        self.create()
        folders.make_readable(self.model(recipe))

    def create(self) -> None:
        """Make the folders that all recipes share, with modes for readers and writers of other uids."""
        folders.make_readable(self.root)
        for name in ("leases", "models", "runs"):
            folders.make_shared(self.root / name)

    # -- sources and runs -----------------------------------------------------------------------

    def snapshot(self, hub: str, repo: str, commit: str) -> Path:
        """The path of a source's snapshot at a commit."""
        return self.root / "sources" / hub / repo.strip("/").replace("/", "--") / commit

    def new_run(self, recipe: str) -> RunDirectory:
        """A run directory with a fresh id: UTC time (microseconds: names have to sort) and random digits."""
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
        run = RunDirectory(self.root / "runs" / recipe / f"{stamp}-{secrets.token_hex(3)}")
        self.create()
        run.create()
        return run

    def runs(self, recipe: str) -> list[RunDirectory]:
        """The runs of a recipe, oldest first.

        In the order of `RunDirectory.began`: ids are made from clocks of hosts, which may be hours off.
        """
        folder = self.root / "runs" / recipe
        try:
            with os.scandir(folder) as listed:
                names = [entry.name for entry in listed if entry.name[0] != "." and entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = [RunDirectory(folder / name) for name in names]
        return sorted(found, key=lambda run: (run.began(), run.id))

    def recipes(self) -> list[str]:
        """The names of the recipes that have runs or checkpoints here."""
        names: set[str] = set()
        for kind in ("models", "runs"):
            folder = self.root / kind
            if folder.is_dir():
                names.update(path.name for path in folder.glob("[!.]*") if path.is_dir())
        return sorted(names)

    # -- generations ----------------------------------------------------------------------------

    def model(self, recipe: str) -> Path:
        """The folder of a recipe's generations and pointer."""
        return self.root / "models" / recipe

    def generation(self, recipe: str, digest: str) -> Path:
        """The path of the generation with this manifest digest."""
        return self.model(recipe) / digest

    def generation_folders(self, recipe: str) -> list[Path]:
        """The folders of a recipe's generations by name, whatever is left in them."""
        folder = self.model(recipe)
        if not folder.is_dir():
            return []
        return sorted(path for path in folder.iterdir() if _DIGEST.fullmatch(path.name))

    def generations(self, recipe: str) -> list[Generation]:
        """The sealed checkpoints of a recipe, in the order of being current; see `Generation.sort_key`."""
        folders = self.generation_folders(recipe)
        if not folders:
            return []
        current = self.current(recipe)
        ranks = {digest: rank for rank, digest in enumerate(self.pointer(recipe).order())}
        found = []
        for path in folders:
            sealed = _modified(path / PROVENANCE)
            if sealed is not None:  # another run may be removing it right now
                rank = ranks.get(path.name)
                found.append(Generation(path.name, path, path == current, rank, sealed))
        return sorted(found, key=lambda generation: generation.sort_key)

    def seal(
        self,
        staging: Path,
        recipe: str,
        digest: str,
        provenance: dict[str, Any],
        *,
        replace: bool = False,
        verified: Stamps | None = None,
        card: str | None = None,
    ) -> Path:
        """Turn a verified staging directory into a generation; afterwards it never changes.

        An equal generation that is there already is success, and `staging` is removed: publishing
        the same content twice, or from two hosts at once, gives one directory.

        Args:
            replace: the generation that is there is damaged: `staging` takes its place, in one step where the
                filesystem can exchange two names, and it stays aside under a temporary name for `prune`.
            verified: the stamps of the files before somebody verified their content.
            card: the model card; a README.md that the manifest lists stays as it is.

        Raises:
            VerificationError: a file was changed since it was verified; nothing is sealed.
        """
        self.create_model(recipe)
        target = self.generation(recipe, digest)
        seal(staging, target, provenance, replace=replace, verified=verified, card=card)
        return target

    def provenance(self, checkpoint: Path) -> dict[str, Any] | None:
        """The provenance of a checkpoint; None where quantpipe did not make it.

        Raises:
            VerificationError: the file is not JSON.
        """
        path = checkpoint / PROVENANCE
        if not path.is_file():
            return None
        try:
            return load_object(path)
        except ValueError as error:
            raise VerificationError(f"the provenance {error}", where=str(path)) from error

    # -- the pointer ----------------------------------------------------------------------------

    def pointer(self, recipe: str) -> Pointer:
        """The link that servers follow."""
        return Pointer(self.model(recipe))

    def current(self, recipe: str) -> Path | None:
        """The generation that the pointer names; None before the first publish.

        Raises:
            VerificationError: it is not a link.
        """
        return self.pointer(recipe).current()

    def receipts_path(self, recipe: str, digest: str) -> Path:
        """The path of a published generation's receipts."""
        return self.model(recipe) / RECEIPTS / f"{digest}.json"

    def report_folder(self, recipe: str, digest: str) -> Path:
        """Where the report of a generation is kept."""
        return self.model(recipe) / REPORTS / digest

    def save_receipts(self, recipe: str, digest: str, receipts: Receipts) -> None:
        """Keep the receipts of the run that published a generation."""
        path = self.receipts_path(recipe, digest)
        folders.make_readable(path.parent)
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

    def published_receipts(self, recipe: str) -> Iterator[Receipts]:
        """The receipts of all generations that were current, the present one's first, then the latest.

        Each is read when it is asked for: most callers need the first.

        Raises:
            VerificationError: as `load_receipts`.
        """
        published = [g for g in self.generations(recipe) if g.rank is not None]
        return (self.load_receipts(recipe, generation.digest) for generation in reversed(published))


def _modified(path: Path) -> float | None:
    """When a file was written, seconds since the epoch; None where it is missing."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
