"""Check this host before a run needs it: interpreters, devices, memory, disk, the store's semantics."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpipe.errors import QuantpipeError
from quantpipe.host.machine import memory_limit, npus, require_interpreter
from quantpipe.settings import Settings
from quantpipe.store import folders
from quantpipe.store.space import Space, existing
from quantpipe.store.trial import check_store
from quantpipe.text import human_bytes


@dataclass(frozen=True)
class Observation:
    """One observation of this machine.

    Attributes:
        subject: what was observed.
        ok: whether it is as required.
        text: what was found.
        hint: what to do; None where there is nothing to do or nothing is known.
    """

    subject: str
    ok: bool
    text: str
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def observe(settings: Settings) -> list[Observation]:
    """Check everything that a run needs from this host."""
    quantize = ("torch", "transformers", "msmodelslim")
    return [
        _attempt(
            "quantize interpreter",
            lambda: require_interpreter(settings.quantize_python, "QUANTPIPE_QUANTIZE_PYTHON", quantize),
            str(settings.quantize_python),
        ),
        _attempt(
            "serve interpreter",
            lambda: require_interpreter(settings.serve_python, "QUANTPIPE_SERVE_PYTHON", ("vllm",)),
            str(settings.serve_python),
        ),
        _devices(),
        Observation("memory", True, f"{human_bytes(memory_limit())} available, {os.cpu_count()} CPUs"),
        _disk(settings.store),
        _readers(settings.store),
        _semantics(settings.store),
    ]


def _attempt(subject: str, look: Callable[[], None], text: str) -> Observation:
    try:
        look()
    except QuantpipeError as error:
        return Observation(subject, False, str(error), error.hint)
    return Observation(subject, True, text)


def _devices() -> Observation:
    found = npus()
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    text = (
        f"{len(found)} NPUs" if found else "no NPU: recipes with `device: cpu` and `launcher: cpu` run here"
    )
    return Observation("devices", True, text + (f", ASCEND_RT_VISIBLE_DEVICES={visible}" if visible else ""))


def _readers(store: Path) -> Observation:
    """Whether servers that run as another user can pass through the folders on the way to the store."""
    found = folders.closed(store / "models")
    if not found:
        return Observation("store readers", True, "servers that run as another user can read it")
    modes, command = folders.how_to_open(found)
    return Observation(
        "store readers", True, f"only servers that run as this user can read it: {modes}", command
    )


def _semantics(store: Path) -> Observation:
    """What the filesystem can do, and what quantpipe does instead of what it cannot."""
    subject = "store semantics"
    try:
        found = check_store(store)
    except QuantpipeError as error:
        return Observation(subject, False, str(error), error.hint)
    text = "rename, symbolic links and fsync work"
    if not found.hard_links:
        text += "; no hard links: leases are created exclusively, equal files of snapshots are not shared"
    if not found.exchange:
        text += "; names cannot be exchanged in one step: a damaged generation is replaced by two renames"
    return Observation(subject, True, text)


def _disk(store: Path) -> Observation:
    space, place = Space.below(store), existing(store)
    return Observation(
        "disk", True, f"{human_bytes(space.free)} free of {human_bytes(space.total)} at {place}"
    )
