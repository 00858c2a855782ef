"""Fill a snapshot: keep existing files, link files that an earlier snapshot has, fetch the rest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from quantpipe.checkpoint.fetched import FileHashes
from quantpipe.errors import VerificationError
from quantpipe.fetch import preflight, reuse
from quantpipe.fetch.figures import FileFigures
from quantpipe.fetch.hub import RemoteFile
from quantpipe.fetch.policy import Policy
from quantpipe.fetch.snapshot import FileReceipt, Snapshot
from quantpipe.fetch.source import Listener, Source
from quantpipe.fetch.transfer import Transfers
from quantpipe.stage import Context
from quantpipe.store.lease import Lease
from quantpipe.text import human_bytes

_LEASE_POLL_SECONDS = 0.5


def fill(
    context: Context, source: Source, files: tuple[RemoteFile, ...], *, policy: Policy, deep: bool
) -> list[FileFigures]:
    """Make every file of a snapshot present and correct; returns the figures of each one.

    Args:
        deep: hash existing files again instead of trusting receipts.

    Raises:
        VerificationError: the content is wrong; it names the file and what was found.
        PreflightError, StorageFullError: the store cannot hold it, or the hub refuses.
        RetryableError: the hub or the network failed for longer than the policy allows.
    """
    snapshot = source.snapshot
    total = sum(file.size for file in files) if deep else None
    with context.console.progress("check", total, "B") as bar:
        kept = reuse.keep(snapshot, files, deep=deep, jobs=context.settings.jobs, on_bytes=bar.advance)
    linked = _linked(context, snapshot, [f for f in files if f.path not in kept])
    missing = [f for f in files if f.path not in kept and f.path not in linked]
    figures = [FileFigures(f.path, f.size, how="kept") for f in files if f.path in kept]
    figures += [FileFigures(f.path, f.size, how="linked") for f in files if f.path in linked]
    if not missing:
        return figures
    reuse.sweep_partial(snapshot, missing)
    landed = reuse.partial_bytes(snapshot)
    absent = sum(f.size for f in missing)
    preflight.check_space(snapshot.path, missing_bytes=max(0, absent - landed), missing_files=len(missing))
    jobs = policy.jobs or max(source.hub.parallel, context.settings.jobs)
    context.console.line(
        f"fetching {len(missing)} of {len(files)} files, {human_bytes(absent)}, from "
        f"{source.describe()}, {jobs} at a time",
        files=len(missing),
        bytes=absent,
    )
    with contextlib.closing(source.hub), context.console.progress("fetch", absent, "B") as bar:
        listener = Listener(
            on_bytes=bar.advance,
            on_file=lambda f: context.console.event("fetched", **f.finished().to_json()),
            on_retry=context.console.warning,
        )
        present = [file.path for file in files]
        transfers = Transfers(source, policy=policy, jobs=jobs, present=present, listener=listener)
        return figures + transfers.run(missing)


def _linked(context: Context, snapshot: Snapshot, missing: list[RemoteFile]) -> set[str]:
    total = sum(found.file.size for found in reuse.linkable(snapshot, missing))
    with context.console.progress("link", total, "B") as bar:
        return reuse.link(snapshot, missing, jobs=context.settings.jobs, on_bytes=bar.advance)


@contextlib.contextmanager
def held(context: Context, snapshot: Snapshot) -> Iterator[None]:
    """Hold the snapshot's lease; waits for another run that is fetching the same snapshot."""
    lease = Lease.for_snapshot(snapshot.path, run=context.run.id)
    said = False
    while not lease.try_acquire():
        if not said:
            context.console.line(f"waiting: the same snapshot is being fetched by {lease.holder()}")
            said = True
        time.sleep(_LEASE_POLL_SECONDS)
    try:
        yield
    finally:
        lease.release()


def finished(snapshot: Snapshot, files: tuple[RemoteFile, ...]) -> list[FileReceipt]:
    """The receipts of all files, once the hashes of all tensors are known.

    They are unknown if a file shares its blocks with the source, or was fetched by 0.1.0: it is read once.
    Two processes that did not see each other's lease may have placed the same file: then the receipt of
    one does not match the file of the other, and the file is hashed once more.

    Raises:
        VerificationError: a file is missing or was modified.
    """
    receipts = []
    for file in files:
        known = FileHashes.load(snapshot.path, file.path) is not None
        receipt = (snapshot.finished(file) if known else None) or snapshot.recheck(file)
        if receipt is None:
            raise VerificationError(
                "a file of the snapshot changed during the fetch",
                where=str(snapshot.path / file.path),
                hint="find the process that writes into the store and stop it, then run again",
            )
        receipts.append(receipt)
    return receipts
