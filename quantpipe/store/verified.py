"""When the files of a generation or a snapshot were last read back and found right.

    <store>/models/<recipe>/scrub/<digest>.json     {"files": {path: seconds since the epoch, ...}}
    <snapshot>/.quantpipe/scrub.json                the same

Times are the file server's (`Store.clock`): hosts with other clocks read them. A file that cannot be read
means "never": everything is then read again, nothing is lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from quantpipe import durable
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.store import folders

FOLDER = "scrub"


class Verified:
    """The times for one directory.

    Args:
        place: the file that holds them.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._files = self._read()
        self._changed: dict[str, float] = {}

    @classmethod
    def of_generation(cls, checkpoint: Path) -> Verified:
        """The times of a generation's files."""
        return cls(checkpoint.parent / FOLDER / f"{checkpoint.name}.json")

    @property
    def never(self) -> bool:
        """Whether no file was ever found right."""
        return not self._files

    def time(self, path: str) -> float | None:
        """When the file `path` was last found right, seconds since the epoch; None for never."""
        return self._files.get(path)

    def since(self, paths: Iterable[str]) -> float | None:
        """The time since when all of these files have been found right; None where one never was."""
        times = [self._files.get(path) for path in paths]
        known = [time for time in times if time is not None]
        return min(known) if known and len(known) == len(times) else None

    def set(self, path: str, time: float) -> None:
        """The file `path` was found right at `time`; kept by `save`."""
        self._files[path] = self._changed[path] = time

    def save(self) -> None:
        """Keep what was set, durably, beside what another host has set meanwhile."""
        if not self._changed:
            return
        self._files = {**self._read(), **self._changed}
        self._changed = {}
        folders.make_readable(self._place.parent, parents=False)
        durable.write_json(self._place, {"files": dict(sorted(self._files.items()))})

    def forget(self) -> None:
        """Drop all times: the directory is gone, or other files have taken its place."""
        self._files, self._changed = {}, {}
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._place.unlink()

    def _read(self) -> dict[str, float]:
        try:
            value = load_object(self._place)
            return {str(path): float(time) for path, time in value["files"].items()}
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            return {}
