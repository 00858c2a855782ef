"""Marks of generations that proved damaged: the next run makes them again, and nothing points at them.

    <store>/models/<recipe>/damaged/<digest>.json     {"found", "host", "provenance",
                                                       "mismatches": [{"path", "problem"}]}

A generation's directory never changes, so that what was found lies beside it. The mark goes when a new copy
takes the generation's place, or when somebody reads the generation again and finds it intact. It names the
copy that it is about by the SHA-256 of its provenance: one that has taken its place is not marked, even where
the run was killed before it removed the mark.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from quantpipe import durable
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.digest import hash_file
from quantpipe.store import folders
from quantpipe.store.manifest import PROVENANCE, Mismatch
from quantpipe.text import now

FOLDER = "damaged"


def mark(checkpoint: Path, found: Sequence[Mismatch]) -> None:
    """Mark a generation as damaged, durably; harmless where it is gone meanwhile."""
    place = _place(checkpoint)
    folders.make_readable(place.parent, parents=False)
    mismatches = [asdict(mismatch) for mismatch in found]
    durable.write_json(
        place,
        {
            "found": now(),
            "host": platform.node(),
            "provenance": _provenance(checkpoint),
            "mismatches": mismatches,
        },
    )


def unmark(checkpoint: Path) -> bool:
    """Remove the mark; whether there was one."""
    place = _place(checkpoint)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        place.unlink()
        durable.fsync_directory(place.parent)
        return True
    return False


def marked(checkpoint: Path) -> list[Mismatch]:
    """What was found in a generation when it was marked; empty where it is not marked."""
    place = _place(checkpoint)
    try:
        value = load_object(place)
        if value.get("provenance") and value["provenance"] != _provenance(checkpoint):
            return []
        return [Mismatch(str(m["path"]), str(m["problem"])) for m in value["mismatches"]]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (
        ValueError,
        KeyError,
        TypeError,
    ):  # edited by hand: that it is there counts
        return [Mismatch(checkpoint.name, f"is marked as damaged by {place}")]


def _provenance(checkpoint: Path) -> str | None:
    """What tells a copy from one that took its place; None where it lacks its provenance."""
    try:
        return hash_file(checkpoint / PROVENANCE)
    except FileNotFoundError:
        return None


def _place(checkpoint: Path) -> Path:
    return checkpoint.parent / FOLDER / f"{checkpoint.name}.json"
