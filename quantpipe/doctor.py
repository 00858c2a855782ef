"""Look at this machine before it is needed: interpreters, devices, memory, disk, the store's semantics."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpipe import durable
from quantpipe.errors import QuantpipeError
from quantpipe.host.machine import memory_limit, npus, require_interpreter
from quantpipe.settings import Settings
from quantpipe.text import human_bytes


@dataclass(frozen=True)
class Observation:
    """One look: what at, whether it is as it has to be, what was seen, what to do."""

    subject: str
    ok: bool
    text: str
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def observe(settings: Settings) -> list[Observation]:
    """Everything that a run needs of this machine."""
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
        Observation("memory", True, f"{human_bytes(memory_limit())} can be had, {os.cpu_count()} CPUs"),
        _disk(settings.store),
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


def _disk(store: Path) -> Observation:
    place = store
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    return Observation(
        "disk", True, f"{human_bytes(usage.free)} free of {human_bytes(usage.total)} at {place}"
    )


def _semantics(store: Path) -> Observation:
    """Try, in the store itself, what an atomic publish rests on."""
    folder = store / f"{durable.TEMPORARY_PREFIX}doctor-{secrets.token_hex(4)}"
    created = not store.exists()
    try:
        folder.mkdir(parents=True)
        durable.write_bytes(folder / "file", b"x")
        (folder / "directory").mkdir()
        (folder / "directory").rename(folder / "renamed")
        for name in ("one", "two"):
            (folder / "new-link").symlink_to(name)
            (folder / "new-link").replace(folder / "link")
        durable.fsync_directory(folder)
        if str((folder / "link").readlink()) != "two":
            raise OSError("a link was not replaced by rename")
    except OSError as error:
        return Observation(
            "store semantics",
            False,
            f"{error.strerror or error} at {store}",
            "the store needs rename, symbolic links and fsync: another mount, or other mount options",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if created:
            # Never the tree: a run that began meanwhile may have put hours of work into it.
            with contextlib.suppress(OSError):
                store.rmdir()
    return Observation("store semantics", True, "rename, links and fsync work")
