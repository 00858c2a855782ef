"""Marks of generations that proved damaged: the next run makes them again, and nothing points at them.

    <store>/models/<recipe>/damaged/<digest>.json     {"found", "host", "mismatches": [{"path", "problem"}]}

A generation's directory never changes, so that what was found lies beside it. The mark goes when a new copy
takes the generation's place, or when somebody reads the generation again and finds it intact.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from quantpipe import durable
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.store import folders
from quantpipe.store.manifest import Mismatch
from quantpipe.text import now

FOLDER = "damaged"


def mark(checkpoint: Path, found: Sequence[Mismatch]) -> None:
    """Mark a generation as damaged, durably; harmless where it is gone meanwhile."""
    place = _place(checkpoint)
    folders.make_readable(place.parent, parents=False)
    mismatches = [asdict(mismatch) for mismatch in found]
    durable.write_json(place, {"found": now(), "host": platform.node(), "mismatches": mismatches})


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
        return [Mismatch(str(m["path"]), str(m["problem"])) for m in value["mismatches"]]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (
        ValueError,
        KeyError,
        TypeError,
    ):  # edited by hand: that it is there counts
        return [Mismatch(checkpoint.name, f"is marked as damaged by {place}")]


def _place(checkpoint: Path) -> Path:
    return checkpoint.parent / FOLDER / f"{checkpoint.name}.json"
