"""The pointer of a recipe: what it names, and how it moves.

    <store>/models/<recipe>/current     relative link to a generation, replaced by rename

A move checks before and after. Before: the generation has all of its files, by name and size, and the
pointer still names what the mover expects. After: the generation still exists. A removal
renames the generation away first and then checks the pointer (`publish.retention.remove`). Each
side writes and then reads what the other writes, so at least one of the two notices the other, on any
number of hosts and without a lock.
"""

from __future__ import annotations

import contextlib
import errno
import secrets
from pathlib import Path

from quantpipe import durable
from quantpipe.errors import RetryableError, VerificationError
from quantpipe.store.history import History, Move, latest_last
from quantpipe.store.manifest import PROVENANCE
from quantpipe.store.sealed import glance_at_sealed

RECEIPTS = "receipts"
"""The folder, next to the pointer, with the receipts of each generation that was about to become current."""

_NAME = "current"


class Pointer:
    """The pointer of one recipe.

    Args:
        folder: `<store>/models/<recipe>`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / _NAME
        self.history = History(folder / "history")

    def named(self) -> str | None:
        """What the link names, whether that exists or not; None before the first publish.

        Raises:
            VerificationError: it is not a link.
        """
        try:
            return str(self.path.readlink())
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:  # a fault of the storage says nothing about the pointer
                raise
            raise VerificationError(
                f"the pointer is not a link: {error.strerror}",
                where=str(self.path),
                hint="copying a store while following links leads to this: remove it, then run again",
            ) from error

    def current(self) -> Path | None:
        """The generation that it names; None where that does not exist."""
        name = self.named()
        target = None if name is None else self.folder / name
        return target if target is not None and target.is_dir() else None

    def order(self) -> list[str]:
        """The digests that were ever current, by when they last were; the present one is last.

        Raises:
            VerificationError: as `named`.
        """
        digests = self.history.digests() or self._order_by_receipts()
        named = self.named()
        if named in digests:  # entries after it were about to become current, and did not
            del digests[len(digests) - digests[::-1].index(named) :]
        elif named is not None:
            digests.append(named)
        return latest_last(digests)

    def _order_by_receipts(self) -> list[str]:
        """For a store of 0.1.0, which kept no history: by the times of the receipts."""
        found = []
        for path in (self.folder / RECEIPTS).glob("*.json"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path.stat().st_mtime, path.stem))
        return [digest for _, digest in sorted(found)]

    def move(self, move: Move) -> None:
        """Let the pointer name `move.digest`, atomically and durably.

        Args:
            move: `previous` is what the pointer has to name before the move.

        Raises:
            VerificationError: the generation is missing or lacks files; the pointer is unchanged.
            RetryableError: somebody else moved the pointer, or removed the generation; the pointer
                names what they left, or a generation that exists.
        """
        self._require_unmoved(move)
        self._require_whole(move.digest)
        if move.digest == move.previous:
            return
        self.history.seed(self.order())
        place = self.history.record(move)
        try:
            self._require_unmoved(move)  # again: a mount may have hung for minutes in what was just written
        except RetryableError:
            self.history.forget(place)
            raise
        self._replace(move.digest)
        if not self._is_there(move.digest):
            self._put_back(move)
            raise RetryableError(
                f"generation {_short(move.digest)} was removed while the pointer moved to it",
                where=str(self.folder / move.digest),
                hint=f"the pointer names {_short(self.named())} now; run again",
            )
        self._give_way(move, place)

    def _require_unmoved(self, move: Move) -> None:
        named = self.named()
        if named != move.previous:
            raise RetryableError(
                f"the pointer has moved: it names {_short(named)} now, not {_short(move.previous)}",
                where=str(self.path),
                hint="nothing was published; `quantpipe status` shows what is current; run again to publish",
            )

    def _give_way(self, move: Move, place: Path) -> None:
        """The latest recorded move counts: one that was recorded while our rename hung is made again.

        Every mover looks so after its own rename, so that the last one to look leaves the latest move's.
        """
        latest = self.history.latest()
        if latest is None or latest[0] == place or latest[1] == move.digest:
            return
        self.history.forget(place)
        if self.named() == move.digest and self._is_there(latest[1]):
            self._replace(latest[1])
        raise RetryableError(
            "somebody else moved the pointer at the same time",
            where=str(self.path),
            hint=f"it names {_short(self.named())} now; `quantpipe status` shows what is current; "
            "run again to publish",
        )

    def _require_whole(self, digest: str) -> None:
        found = glance_at_sealed(self.folder / digest)
        if not self._is_there(digest):
            raise VerificationError(
                "the target generation does not exist",
                where=str(self.folder / digest),
                hint="`quantpipe status` lists the generations; a run recreates it",
            )
        if found:
            raise VerificationError(
                "the target generation is damaged",
                where=str(self.folder / digest / found[0].path),
                hint="run the recipe again: a new copy replaces it",
                details=[mismatch.line() for mismatch in found],
            )

    def _is_there(self, digest: str) -> bool:
        return (self.folder / digest / PROVENANCE).is_file()

    def _replace(self, digest: str) -> None:
        temporary = self.folder / f"{durable.TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            temporary.symlink_to(digest)
            temporary.replace(self.path)
        finally:
            with contextlib.suppress(OSError):  # never instead of the error, nor after a move that is done
                temporary.unlink()
        durable.fsync_directory(self.folder)

    def _put_back(self, lost: Move) -> None:
        """Name a generation that exists: the previous one, or else the one that was current last."""
        before = [lost.previous, *reversed(latest_last(self.history.digests()))]
        for digest in before:
            if digest is None or digest == lost.digest or not self._is_there(digest):
                continue
            if self.named() != lost.digest:  # somebody moved it in the meantime: theirs counts
                return
            self.history.record(Move.of_now(digest, "restore", previous=lost.digest, run=lost.run))
            self._replace(digest)
            if self._is_there(digest):
                return


def _short(digest: str | None) -> str:
    return "nothing" if digest is None else digest[:12]
