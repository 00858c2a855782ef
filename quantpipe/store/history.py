"""The order in which generations were current: one small file for each move of the pointer.

    <store>/models/<recipe>/history/<number>-<digest>-<nonce>.json

Retention and rollback follow this order. It is in the names, as a running number: neither host clocks
nor file times matter, so a store that was copied without times keeps its order. Two
hosts that move the pointer at the same instant write two files of one number; none is lost, and the nonce
decides which counts as the later one.

A move is recorded before the pointer moves: killed in between, the history ends with a generation that has
not become current, which is why everything after the last entry of the current one is ignored.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from quantpipe import durable
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.store import folders
from quantpipe.text import now

Action = Literal["publish", "rollback", "restore"]

_NAME = re.compile(r"(\d{8,})-([0-9a-f]{64})-([0-9a-f]{16})\.json")


@dataclass(frozen=True)
class Move:
    """One move of the pointer.

    Attributes:
        digest: of the generation that it names from then on.
        previous: what it named before; None where there was no pointer.
        action: "publish", "rollback", or "restore" if the generation of a move was removed meanwhile.
        time: UTC, ISO 8601, by the clock of `host`: for people, never for the order.
        host: where it was done.
        user: who did it.
        run: id of the run that published; None for a rollback.
        reason: what the person who rolled back gave as the reason.
        recipe: digest of the recipe whose run published; None for a rollback, and before 0.2.0.
        source: hub and repository of its source; None likewise.
        commit: of the source; None likewise.
        pinned: the recipe itself named the commit, instead of a branch.
    """

    digest: str
    previous: str | None
    action: Action
    time: str
    host: str
    user: str
    run: str | None = None
    reason: str | None = None
    recipe: str | None = None
    source: str | None = None
    commit: str | None = None
    pinned: bool = False

    @classmethod
    def of_now(
        cls,
        digest: str,
        action: Action,
        *,
        previous: str | None,
        run: str | None = None,
        reason: str | None = None,
    ) -> Move:
        """A move that this process is about to make."""
        return cls(digest, previous, action, now(), platform.node(), _user(), run, reason)

    def to_json(self) -> dict[str, Any]:
        """The move as a JSON object."""
        return asdict(self)


class History:
    """The moves of one recipe's pointer. Creates its folder only when it writes.

    Args:
        folder: `<store>/models/<recipe>/history`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def digests(self) -> list[str]:
        """What the pointer named, move by move, oldest first; a digest may occur several times."""
        return [digest for _, digest, _ in self._entries()]

    def moves(self, *, last: int | None = None) -> list[Move]:
        """The moves with who, when and why, the oldest first; an unreadable file is skipped.

        Args:
            last: at most that many, the latest ones.
        """
        known = {field.name for field in fields(Move)}
        found = []
        for number, digest, nonce in self._entries()[-last if last else None :]:
            try:
                value = load_object(self._path(number, digest, nonce))
                found.append(Move(**{k: v for k, v in {**value, "digest": digest}.items() if k in known}))
            except (OSError, ValueError, TypeError):
                continue
        return found

    def seed(self, digests: list[str]) -> None:
        """Begin the history of a store that has none, made by 0.1.0, from its receipts."""
        if not self._entries():
            for before, digest in zip([None, *digests], digests, strict=False):
                self.record(Move(digest, before, "publish", "", "", ""))

    def record(self, move: Move) -> Path:
        """Keep a move, durably, as the latest one; its file."""
        folders.make_readable(self.folder)
        entries = self._entries()
        number = entries[-1][0] + 1 if entries else 1
        place = self._path(number, move.digest, secrets.token_hex(8))
        durable.write_json(place, move.to_json())
        return place

    def latest(self) -> tuple[Path, str] | None:
        """The file and the digest of the latest move; None without any."""
        entries = self._entries()
        return (self._path(*entries[-1]), entries[-1][1]) if entries else None

    def forget(self, place: Path) -> None:
        """Drop the record of a move that was not made, or was taken back; harmless where that fails."""
        with contextlib.suppress(OSError):
            place.unlink()

    def _entries(self) -> list[tuple[int, str, str]]:
        """Number, digest and nonce of each move, the oldest first."""
        try:
            names = os.listdir(self.folder)  # noqa: PTH208
        except FileNotFoundError:
            return []
        found = [_NAME.fullmatch(name) for name in names]
        parts = [(int(name[1]), name[2], name[3]) for name in found if name is not None]
        return sorted(parts, key=lambda part: (part[0], part[2]))

    def _path(self, number: int, digest: str, nonce: str) -> Path:
        return self.folder / f"{number:08d}-{digest}-{nonce}.json"


def latest_last(digests: list[str]) -> list[str]:
    """Each digest once, in the order of its last occurrence."""
    return list(reversed(dict.fromkeys(reversed(digests))))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a uid without a name, as in many containers
        return str(os.getuid())
