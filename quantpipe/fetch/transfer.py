"""Fetch files in parallel, hash them as they land, retry what may pass, and never hang.

Worker threads move bytes. The calling thread is the watchdog: it sees every transfer's bytes, cuts off
one that stalls, and ends all of them within a moment on a failure, Ctrl-C or SIGTERM. The threads are
daemons, so that one that is stuck in the kernel cannot hold the process up.
"""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from quantpipe.checkpoint.names import INDEX_SUFFIX, SHARD_SUFFIX
from quantpipe.errors import RetryableError, VerificationError
from quantpipe.fetch import sanity
from quantpipe.fetch.figures import FileFigures
from quantpipe.fetch.hub import PassingFault, RemoteFile, Stopped
from quantpipe.fetch.partial import Partial
from quantpipe.fetch.policy import Policy
from quantpipe.fetch.snapshot import FileReceipt
from quantpipe.fetch.source import Listener, Source
from quantpipe.store.faults import storage_faults

_GONE = {errno.ENOENT, errno.ESTALE}
_TICK_SECONDS = 0.1
_JOIN_SECONDS = 1.0


@dataclass
class _Transfer:
    figures: FileFigures
    partial: Partial
    stop: threading.Event
    fruitless: int = 0
    mismatches: int = 0
    stalled: bool = False
    watched: bool = False
    mark: float = field(default_factory=time.monotonic)
    landed_at_mark: int = 0
    alive: int = 0

    def progress(self) -> int:
        return self.figures.bytes_transferred + self.alive

    def rearm(self) -> None:
        self.mark, self.landed_at_mark, self.watched = time.monotonic(), self.progress(), True


class Transfers:
    """Fetch the files of one source at one commit into a snapshot.

    Args:
        present: the paths of all files of the source, with which an index is compared.
        jobs: files transferred at a time.
    """

    def __init__(
        self,
        source: Source,
        *,
        policy: Policy,
        jobs: int,
        present: Iterable[str],
        listener: Listener | None = None,
    ) -> None:
        self._source = source
        self._listener = listener or Listener()
        self._policy = policy
        self._jobs = max(1, jobs)
        self._present = frozenset(present)
        self._active: dict[str, _Transfer] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._events: queue.SimpleQueue[FileFigures | BaseException] = queue.SimpleQueue()
        self._landed_at = time.monotonic()

    def run(self, files: Iterable[RemoteFile]) -> list[FileFigures]:
        """Fetch `files`; the shards only after all others, which tell at once whether the source is right.

        Raises:
            VerificationError: a file's content is not what the hub promised, time and again.
            RetryableError: a file could not be had in the allowed attempts, or nothing moves any more.
            PreflightError, RecipeError: the hub refuses.
        """
        ordered = sorted(files)
        shards = [file for file in ordered if file.path.endswith(SHARD_SUFFIX)]
        return self._run([f for f in ordered if f not in shards]) + self._run(shards)

    def _run(self, files: list[RemoteFile]) -> list[FileFigures]:
        todo: queue.SimpleQueue[RemoteFile] = queue.SimpleQueue()
        for file in files:
            todo.put(file)
        threads = [
            threading.Thread(target=self._work, args=(todo,), name=f"quantpipe-fetch-{i}", daemon=True)
            for i in range(min(self._jobs, len(files)))
        ]
        self._landed_at = time.monotonic()
        try:
            for thread in threads:
                thread.start()
            return [self._next() for _ in files]
        except BaseException:
            self._stop(threads)
            raise

    # -- the watchdog: runs in the calling thread -----------------------------------------------

    def _next(self) -> FileFigures:
        """Wait for one file to be finished, watching over all."""
        while True:
            try:
                event = self._events.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                self._watch()
                continue
            if isinstance(event, BaseException):
                raise event
            self._listener.on_file(event)
            return event

    def _watch(self) -> None:
        now = time.monotonic()
        with self._lock:
            active = list(self._active.values())
        for transfer in active:
            if not transfer.watched:
                continue
            if transfer.progress() - transfer.landed_at_mark >= self._policy.floor_bytes:
                transfer.rearm()
            elif now - transfer.mark > self._policy.stall_seconds:
                transfer.watched, transfer.stalled = False, True
                transfer.stop.set()
                transfer.partial.abort()
        if now - self._landed_at > self._policy.overall_seconds:
            raise RetryableError(
                f"no data arrived for {self._policy.overall_seconds:.0f} s, for any file",
                where=self._source.describe(),
                hint="check the network, the proxy and the storage, then run again: fetched data is kept",
            )

    def _stop(self, threads: list[threading.Thread]) -> None:
        self._stopping.set()
        with self._lock:
            active = list(self._active.values())
        for transfer in active:
            transfer.stop.set()
            transfer.partial.abort()
        limit = time.monotonic() + _JOIN_SECONDS
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, limit - time.monotonic()))

    # -- the workers ----------------------------------------------------------------------------

    def _work(self, todo: queue.SimpleQueue[RemoteFile]) -> None:
        while not self._stopping.is_set():
            try:
                file = todo.get_nowait()
            except queue.Empty:
                return
            try:
                self._events.put(self._fetch(file))
            except BaseException as error:
                self._events.put(error)
                return

    def _fetch(self, file: RemoteFile) -> FileFigures:
        started = time.monotonic()
        transfer = self._begin(file)
        try:
            with storage_faults(self._source.snapshot.path):
                while not self._tried(transfer):
                    pass
        finally:
            transfer.partial.close()
            with self._lock:
                del self._active[file.path]
            transfer.figures.seconds = time.monotonic() - started
        return transfer.figures

    def _begin(self, file: RemoteFile) -> _Transfer:
        figures = FileFigures(file.path, file.size)
        stop = threading.Event()

        def landed(count: int) -> None:
            figures.bytes_transferred += count
            self._landed_at = time.monotonic()
            self._listener.on_bytes(count)

        def alive(count: int) -> None:
            transfer.alive += count
            self._landed_at = time.monotonic()
            self._listener.on_bytes(count)

        partial = Partial(self._source.snapshot.partial, file, stop=stop, on_landed=landed, on_alive=alive)
        transfer = _Transfer(figures, partial, stop)
        with self._lock:
            self._active[file.path] = transfer
        return transfer

    def _tried(self, transfer: _Transfer) -> bool:
        """One attempt; whether the file is finished."""
        before = transfer.figures.bytes_transferred
        retry_after = None
        try:
            self._attempt(transfer)
            return True
        except (PassingFault, Stopped, OSError) as error:
            if self._stopping.is_set():
                raise Stopped from error
            if transfer.stalled:
                why = f"fewer than {self._policy.floor_bytes:,} bytes in {self._policy.stall_seconds:g} s"
            elif isinstance(error, OSError) and error.errno not in _GONE:
                raise
            elif isinstance(error, OSError):
                transfer.partial.discard()
                why = f"its partial file is gone: {error.strerror}"
            else:
                why, retry_after = str(error), getattr(error, "retry_after", None)
        transfer.watched = False
        self._again(
            transfer,
            why,
            retry_after,
            fruitful=transfer.figures.bytes_transferred >= before + self._policy.floor_bytes,
        )
        return False

    def _attempt(self, transfer: _Transfer) -> None:
        partial, file = transfer.partial, transfer.partial.file
        if transfer.figures.retries and self._source.snapshot.finished(file) is not None:
            transfer.figures.how = "kept"  # another process was faster
            return
        transfer.stop.clear()
        transfer.stalled = False
        transfer.rearm()
        partial.open()
        transfer.rearm()
        if partial.offset < file.size or file.size == 0:
            self._source.hub.fetch(self._source.repo, self._source.commit, file, partial)
        transfer.watched = False
        wrong = partial.mismatch()
        if wrong is None:
            self._accept(partial)
        elif partial.size < file.size:
            raise PassingFault(f"the connection ended early: {wrong}")
        else:
            self._reject(transfer, wrong)

    def _accept(self, partial: Partial) -> None:
        file = partial.file
        if file.path.endswith(SHARD_SUFFIX):
            sanity.check_shard(partial.path, name=file.path)
        elif file.path.endswith(INDEX_SUFFIX):
            sanity.check_index(partial.path, self._present, name=file.path)
        stamp = partial.flush()
        receipt = FileReceipt(file, stamp, partial.sha256, self._source.origin(file.path))
        self._source.snapshot.place(partial.path, receipt, partial.content())

    def _reject(self, transfer: _Transfer, wrong: str) -> None:
        """Delete what arrived wrongly; try again, unless it came so too often."""
        self._listener.on_bytes(-transfer.partial.size)
        transfer.partial.discard()
        transfer.mismatches += 1
        if transfer.mismatches >= self._policy.mismatches:
            raise VerificationError(
                f"{transfer.figures.path} failed its checksum {transfer.mismatches} times: {wrong}",
                where=self._source.describe(),
                hint="a proxy or a mirror may alter it: try the hub's own endpoint, or report it to the hub",
            )
        raise PassingFault(f"wrong content, deleted: {wrong}")

    def _again(self, transfer: _Transfer, why: str, retry_after: float | None, *, fruitful: bool) -> None:
        transfer.figures.retries += 1
        transfer.fruitless = 1 if fruitful else transfer.fruitless + 1
        if transfer.fruitless >= self._policy.attempts:
            raise RetryableError(
                f"{transfer.figures.path} could not be fetched in {transfer.fruitless} attempts: {why}",
                where=self._source.describe(),
                hint="check the network and the proxy, then run again: fetched data is kept",
            )
        self._listener.on_retry(f"{transfer.figures.path}: {why}; retrying")
        self._landed_at = max(self._landed_at, time.monotonic() + (retry_after or 0.0))
        if self._stopping.wait(self._policy.wait_seconds(transfer.fruitless, retry_after)):
            raise Stopped
