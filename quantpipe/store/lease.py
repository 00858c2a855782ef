"""Leases: who works on a recipe or a snapshot, so that nobody does the same work at the same time.

A lease avoids waste; correctness never depends on it (a holder that was believed dead may still write).
It is a file that contains its owner, created by link(2), which is atomic on NFS too, and refreshed by its
mtime. Its age is measured against the mtime of a file that the contender creates next to it: both
times come from the same file server, so host clocks do not matter. On the host of the
owner, process id, start time and boot id show at once whether it is alive.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from quantpipe import durable
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.errors import LeaseHeldError, PreflightError, RetryableError
from quantpipe.store.owner import Owner
from quantpipe.text import human_seconds, now

LAPSE_SECONDS = 120.0
"""Other hosts can take a lease that was not refreshed for this long."""

_BEATS = 8
"""Refreshes within the time in which a lease lapses."""

_UNREADABLE = "?"
"""The nonce of a lease that cannot be read."""


@dataclass(frozen=True)
class Holder:
    """The holder of a lease, as its file names it.

    Attributes:
        owner: the process.
        run: id of its run; None where it has none.
        since: UTC time, ISO 8601.
        nonce: identifies this claim.
    """

    owner: Owner
    run: str | None
    since: str
    nonce: str

    def to_json(self) -> dict[str, Any]:
        """The holder as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        run = f", run {self.run}" if self.run else ""
        return f"process {self.owner.pid} on {self.owner.host}{run}, since {self.since}"


class Lease:
    """A lease on the work that a file names; a context manager that acquires and releases.

    Args:
        path: the lease's file; its folder is created.
        run: the id of the run that requests it, for people.
        what: its subject, for the error.
        lapse: seconds without a refresh after which others may take it.
    """

    def __init__(
        self, path: Path, *, run: str | None = None, what: str = "this", lapse: float = LAPSE_SECONDS
    ) -> None:
        self.path = path
        self.lapse = lapse
        self._what = what
        self._me = Holder(Owner.me(), run, now(), secrets.token_hex(8))
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None
        self._lost = False

    @classmethod
    def for_recipe(cls, store: Path, recipe: str, *, run: str | None = None) -> Lease:
        """The lease on a recipe's runs: `<store>/leases/<recipe>.json`."""
        return cls(store / "leases" / f"{recipe}.json", run=run, what=f"recipe {recipe}")

    @classmethod
    def for_snapshot(cls, snapshot: Path, *, run: str | None = None) -> Lease:
        """The lease on a snapshot's content: `<snapshot>/.quantpipe/lease.json`."""
        return cls(snapshot / ".quantpipe" / "lease.json", run=run, what=f"snapshot {snapshot.name}")

    @property
    def lost(self) -> bool:
        """Whether another process took it while we held it."""
        return self._lost

    def holder(self) -> Holder | None:
        """Who holds it, alive or not; None where nobody does."""
        try:
            value = load_object(self.path)
            return Holder(Owner(**value["owner"]), value["run"], value["since"], value["nonce"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return Holder(Owner("an unknown host", "?", 0, 0), None, "an unknown time", _UNREADABLE)

    def seems_held(self) -> bool:
        """Whether somebody holds it; a check that writes nothing.

        For a holder on another host only the local clock is available: up to twice the lapse counts as alive.
        """
        holder = self.holder()
        if holder is None or not holder.owner.may_live():
            return False
        if holder.owner.on_this_host():
            return True
        try:
            return time.time() - self.path.stat().st_mtime < 2 * self.lapse
        except FileNotFoundError:
            return False

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            LeaseHeldError: a living process holds it, or one on another host with a recent sign of life.
            PreflightError: the lease's file cannot be written.
        """
        if self.try_acquire():
            return
        holder = self.holder()
        raise LeaseHeldError(
            f"another run is working on {self._what}: {holder or 'it has just ended'}",
            where=str(self.path),
            hint="wait for it, or stop it; after a crash of its host the lease expires within "
            f"{human_seconds(self.lapse)}: then run again",
        )

    def try_acquire(self) -> bool:
        """Take the lease; False where somebody else holds it. Raises PreflightError as `acquire`."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._claim() as (claim, clock):
                for _ in range(3):
                    if self._link(claim):
                        self._start()
                        return True
                    if not self._reclaim(clock):
                        return False
        except PermissionError as error:
            raise PreflightError(
                f"the lease cannot be written: {error.strerror}",
                where=str(self.path),
                hint="check the mount and the permissions of the store",
            ) from error
        return False

    def require(self) -> None:
        """Check that it is still ours.

        Raises:
            RetryableError: another process has taken it.
        """
        if not self._mine():
            raise RetryableError(
                f"another run has taken the lease on {self._what}: {self.holder() or 'it has since ended'}",
                where=str(self.path),
                hint="this run showed no sign of life for too long (a stopped process, a hanging mount); "
                "nothing was published; run again",
            )

    def release(self) -> None:
        """Release it; harmless where it is not held.

        A storage fault here does not fail finished work: the lease expires by itself.
        """
        if self._beat is None:
            return
        self._stop.set()
        self._beat.join()
        self._beat = None
        with contextlib.suppress(OSError):
            if self._mine():
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    # -- how it is taken ------------------------------------------------------------------------

    @contextlib.contextmanager
    def _claim(self) -> Any:
        """A file that contains our name, and the file server's current time in ns."""
        claim = self.path.with_name(f"{durable.TEMPORARY_PREFIX}{self._me.nonce}-{self.path.name}")
        try:
            claim.write_text(json.dumps(self._me.to_json()) + "\n", "utf-8")
            claim.chmod(0o644)  # for the status that other users ask for, whatever the umask
            durable.fsync_file(claim)  # after a power cut a lease without its content would be nobody's
            yield claim, claim.stat().st_mtime_ns
        finally:
            with contextlib.suppress(OSError):
                claim.unlink()

    def _link(self, claim: Path) -> bool:
        try:
            os.link(claim, self.path)
        except FileExistsError:
            return self._mine()
        except OSError:  # PermissionError too: some filesystems without links say EPERM
            return self._exclusive(claim)
        return True

    def _exclusive(self, claim: Path) -> bool:
        """For filesystems without links: a reader may see the file empty for an instant."""
        try:
            with self.path.open("x", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o644)
                file.write(claim.read_text("utf-8"))
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return self._mine()  # as where the answer to a link that was made was lost
        return True

    def _reclaim(self, clock: int) -> bool:
        """Remove a lease whose holder is gone; whether a retry can succeed."""
        try:
            age = (clock - self.path.stat().st_mtime_ns) / 1e9
        except FileNotFoundError:
            return True
        holder = self.holder()
        if holder is None:
            return True
        if holder.owner.may_live() and not self._has_lapsed(holder, age):
            return False
        grave = self.path.with_name(f"{durable.TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        try:
            self.path.rename(grave)
        except FileNotFoundError:
            return True
        buried = Lease(grave).holder()
        if buried is not None and buried.nonce != holder.nonce:
            # A third process was faster: what was renamed is its fresh lease. Put it back.
            with contextlib.suppress(OSError):
                os.link(grave, self.path)
        grave.unlink(missing_ok=True)
        return True

    def _has_lapsed(self, holder: Holder, age: float) -> bool:
        """Whether the holder has shown no sign of life for too long.

        A lease that cannot be read was left by a power cut, unless it is being written just now. The time of
        one that lies in the future says nothing (the file server's clock was set back): it is watched.

        Args:
            age: seconds since the last refresh, by the file server's clock.
        """
        beat = self.lapse / _BEATS
        if age < -beat:
            return self._watched()
        return age >= (beat if holder.nonce == _UNREADABLE else self.lapse)

    def _watched(self) -> bool:
        """Watch the lease, by this host's own clock, until it lapses; whether nobody refreshed it."""
        try:
            before = self.path.stat().st_mtime_ns
            limit = time.monotonic() + self.lapse
            while time.monotonic() < limit:
                time.sleep(self.lapse / _BEATS / 4)
                if self.path.stat().st_mtime_ns != before:
                    return False
        except FileNotFoundError:
            pass
        return True

    def _mine(self) -> bool:
        holder = self.holder()
        return holder is not None and holder.nonce == self._me.nonce

    def _start(self) -> None:
        self._stop.clear()
        self._lost = False
        self._beat = threading.Thread(target=self._refresh, name="quantpipe-lease", daemon=True)
        try:
            self._beat.start()
        except RuntimeError:  # no more threads: nobody would refresh it, nor release it
            self._beat = None
            self.path.unlink(missing_ok=True)
            raise

    def _refresh(self) -> None:
        while not self._stop.wait(self.lapse / _BEATS):
            try:
                if not self._mine():
                    self._lost = True
                    return
                os.utime(self.path)
            except OSError:
                continue  # a transient storage fault: the next beat retries
