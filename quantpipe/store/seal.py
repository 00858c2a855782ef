"""The seal: a verified staging directory becomes a generation, under the name of its manifest's digest.

In this order: nobody has touched a file since it was verified, model card, provenance, modes, nobody has
touched one meanwhile, everything flushed, nobody has touched one meanwhile, the rename, its folder flushed.
Killed in between, staging is as good as before.
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path
from typing import Any

from quantpipe import durable
from quantpipe.store.damaged import unmark
from quantpipe.store.manifest import CARD, PROVENANCE
from quantpipe.store.sealed import FILE_MODE, FOLDER_MODE
from quantpipe.store.stamps import Stamps
from quantpipe.store.verified import Verified

DAMAGED_PREFIX = f"{durable.TEMPORARY_PREFIX}damaged-"
"""The name of a damaged generation, after another took its place, begins so."""


def seal(
    staging: Path,
    target: Path,
    provenance: dict[str, Any],
    *,
    replace: bool,
    verified: Stamps | None,
    card: str | None = None,
) -> None:
    """Turn `staging` into the generation `target`, in a folder that exists; see `Store.seal`."""
    if replace and target.is_dir():
        _make_unchangeable(staging, provenance, verified, card)
        aside = target.with_name(f"{DAMAGED_PREFIX}{target.name[:12]}-{secrets.token_hex(4)}")
        Verified.of_generation(target).forget()
        durable.exchange(staging, target, aside)
        unmark(target)  # last: killed before, the mark would be gone, and the damaged copy up to date
    elif not target.is_dir():
        _make_unchangeable(staging, provenance, verified, card)
        try:
            staging.rename(target)
        except OSError:
            if not target.is_dir():
                raise
        durable.fsync_directory(target.parent)
    shutil.rmtree(staging, ignore_errors=True)


def _make_unchangeable(
    staging: Path, provenance: dict[str, Any], verified: Stamps | None, card: str | None
) -> None:
    """The last steps before the rename: provenance, card, modes for servers of other uids, all flushed."""
    before = Stamps.of(staging)
    if verified is not None:
        verified.require_same(before, staging)
    if card is not None:
        durable.write_bytes(staging / CARD, card.encode())
    durable.write_json(staging / PROVENANCE, provenance)
    for directory, _, files in durable.walk(staging):
        for name in files:
            if name.startswith(durable.TEMPORARY_PREFIX):  # of a write that was killed
                Path(directory, name).unlink()
            else:
                Path(directory, name).chmod(FILE_MODE)
        Path(directory).chmod(FOLDER_MODE)
    unwritable = Stamps.of(staging)
    before.require_same(unwritable, staging, chmod=True)
    durable.fsync_tree(staging)  # takes a while: whoever had a file open may have written meanwhile
    unwritable.require_same(Stamps.of(staging), staging)
