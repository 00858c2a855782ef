"""The fetch stage: resolve the revision, list, reuse, fetch what is missing, and leave a snapshot.

What only a transfer needs is imported there: a no-op refresh stays quick.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from quantpipe.checkpoint.names import CONFIG
from quantpipe.checkpoint.strict_json import load_object, parse_object
from quantpipe.errors import VerificationError
from quantpipe.fetch.hub import Hub, RemoteFile
from quantpipe.fetch.hubs.choose import make_hub
from quantpipe.fetch.hubs.local import LocalHub
from quantpipe.fetch.listing import require_vouched, unvouched
from quantpipe.fetch.policy import Policy
from quantpipe.fetch.snapshot import PRIVATE, Snapshot
from quantpipe.fetch.source import Source
from quantpipe.fetch.sources import selector, trusts_remote_code, variant
from quantpipe.stage import Context, FetchPlan, StageName, StageResult, digest_of
from quantpipe.store.outputs import FetchFigures, FetchOutput
from quantpipe.store.receipt import FetchReceipt
from quantpipe.store.space import Space, check_writable
from quantpipe.store.trial import check_semantics
from quantpipe.text import human_bytes

T = TypeVar("T")

_WORTH_A_LINE_BYTES = 1 << 30


class FetchStage:
    """Stage 1; `quantpipe.stage.Stage`.

    One instance belongs to one run: it resolves the revision once, so that key and
    snapshot agree even if the branch moves in the meantime.

    Args:
        policy: retries and timeouts; None takes them from the settings.
        deep: hash existing files again instead of trusting receipts.
    """

    name: StageName = "fetch"

    def __init__(self, policy: Policy | None = None, *, deep: bool = False) -> None:
        self._policy = policy
        self._deep = deep
        self._source: Source | None = None

    def key(self, context: Context) -> str:
        """Digest of the source, its commit and whether its code is trusted.

        Raises:
            RecipeError, PreflightError, RetryableError: the hub lacks it, refuses, or does not answer.
        """
        source = self._resolved(context)
        return self._key(context, source.commit)

    def plan(self, context: Context) -> FetchPlan:
        """What would be fetched, in bytes; queries the hub, writes nothing, hashes nothing."""
        from quantpipe.fetch import reuse

        recipe = context.recipe
        hub = self._hub(context)
        if isinstance(hub, LocalHub):
            files, unknown = hub.glance(recipe.source.repo)
            commit = "" if unknown else hub.resolve(recipe.source.repo)
        else:
            source = self._resolved(context)
            hub, commit = source.hub, source.commit
            files = self._files(context, source)
        snapshot = self._snapshot(context, hub, commit or "unknown")
        missing = [file for file in files if snapshot.finished(file) is None]
        linked = {found.file.path for found in reuse.linkable(snapshot, missing)}
        total = sum(file.size for file in files)
        landed = reuse.partial_bytes(snapshot)
        absent = max(0, sum(file.size for file in missing if file.path not in linked) - landed)
        free = Space.below(context.store.root).free
        notes = [f"the store has only {human_bytes(free)} free"] if absent > free else []
        if isinstance(hub, LocalHub) and (private := hub.private(recipe.source.repo, files)):
            notes.append(_more_readable(private, len(files)))
        return FetchPlan(
            stage=self.name,
            action="run" if missing else "reuse",
            summary=f"{hub.describe(recipe.source.repo)}: {len(files)} files, {human_bytes(total)}"
            + (f", {human_bytes(absent)} to download" if missing else ", all present"),
            disk_bytes=absent,
            notes=tuple(notes),
            source_bytes=total,
            missing_files=len(missing),
            config=self._config(context, hub, commit, snapshot, files),
            commit=commit or None,
        )

    def preflight(self, context: Context) -> None:
        """Whether the store is writable and has inodes left.

        Free bytes are checked for all stages together; the semantics of renames, right before the first byte:
        that check has to write.

        Raises:
            PreflightError: it is not, or has none.
        """
        from quantpipe.fetch import preflight

        check_writable(context.store.root)
        missing = context.plans.fetch.missing_files if self.name in context.plans else 0
        preflight.check_space(context.store.root, missing_bytes=0, missing_files=missing)

    def run(self, context: Context) -> StageResult[FetchOutput, FetchFigures]:
        """Fetch, and leave a snapshot in which every file is complete and correct.

        Raises:
            VerificationError: the content is wrong; it names the file and what was found.
            PreflightError, StorageFullError: the store cannot hold it, or the hub refuses.
            RetryableError: the hub or the network failed for longer than the policy allows.
        """
        from quantpipe.fetch import reuse, sanity
        from quantpipe.fetch.fill import fill, finished, held
        from quantpipe.fetch.hubs import offline

        started = time.monotonic()
        source = self._resolved(context)
        snapshot = source.snapshot
        files = self._files(context, source)
        check_semantics(snapshot.path / PRIVATE)
        with held(context, snapshot):
            snapshot.begin(files, self._about(context, source))
            if not isinstance(source.hub, LocalHub):
                offline.remember(snapshot.path.parent, context.recipe.source.revision, source.commit)
            if unverified := unvouched(files):
                context.console.warning(_accepted(unverified, len(files)))
            fetched = fill(context, source, files, policy=self._retry_policy(context), deep=self._deep)
            sanity.check_weights(snapshot.path, [file.path for file in files])
            manifest = snapshot.finish(finished(snapshot, files))
            reuse.sweep(snapshot, files)
        return StageResult(
            FetchOutput(context.store.relative(snapshot.path), source.commit, manifest.digest()),
            FetchFigures(
                files=len(files),
                bytes=manifest.total_bytes,
                bytes_transferred=sum(f.bytes_transferred for f in fetched),
                seconds=round(time.monotonic() - started, 3),
                retries=sum(f.retries for f in fetched),
                unverified=tuple(unverified),
                per_file=tuple(f.finished() for f in sorted(fetched, key=lambda f: f.path)),
            ),
            summary=f"{len(files)} files, {human_bytes(manifest.total_bytes)}",
        )

    def still_there(self, context: Context, receipt: FetchReceipt) -> bool:
        """Whether every file of the snapshot is unchanged, by size, mtime and inode; reads receipts only."""
        snapshot = Snapshot(context.store.absolute(receipt.outputs.snapshot))
        try:
            files = snapshot.files()
        except VerificationError:
            return False
        return bool(files) and all(snapshot.finished(file) is not None for file in files)

    # -- the source -----------------------------------------------------------------------------

    def _resolved(self, context: Context) -> Source:
        if self._source is None:
            hub = self._hub(context)
            repo, revision = context.recipe.source.repo, context.recipe.source.revision
            commit = self._commit(context, hub, repo, revision)
            self._source = Source(hub, repo, commit, self._snapshot(context, hub, commit))
        return self._source

    def _commit(self, context: Context, hub: Hub, repo: str, revision: str | None) -> str:
        if not isinstance(hub, LocalHub):
            return self._ask(context, hub, lambda: hub.resolve(repo, revision))
        _, unknown = hub.glance(repo)
        if unknown >= _WORTH_A_LINE_BYTES:
            context.console.line(f"hashing {human_bytes(unknown)} of {hub.describe(repo)}")
        with context.console.progress("hash", unknown, "B") as bar:
            return hub.resolve(repo, on_bytes=bar.advance)

    def _hub(self, context: Context) -> Hub:
        return self._source.hub if self._source else make_hub(context, selector(context.recipe))

    def _files(self, context: Context, source: Source) -> tuple[RemoteFile, ...]:
        """The needed files; from the stored source manifest if there is one: a commit never changes.

        Raises:
            PreflightError: the hub lists some without a hash, and the recipe does not accept that.
        """
        accepted = context.recipe.source.unverified
        stored = source.snapshot.files()
        if stored and (accepted or not unvouched(stored)):
            return stored
        listed = self._ask(context, source.hub, lambda: source.hub.list(source.repo, source.commit))
        files = selector(context.recipe)(listed)
        if not accepted:
            require_vouched(files, source.describe())
        return files

    def _snapshot(self, context: Context, hub: Hub, commit: str) -> Snapshot:
        folder = hub.folder(context.recipe.source.repo)
        mark = "" if isinstance(hub, LocalHub) else variant(context.recipe)
        return Snapshot(context.store.snapshot(hub.name, folder, commit + mark))

    def _key(self, context: Context, commit: str) -> str:
        inputs = context.recipe.stage_inputs()["fetch"]
        return digest_of([inputs, commit, trusts_remote_code(context.recipe)])

    def _ask(self, context: Context, hub: Hub, question: Callable[[], T]) -> T:
        """Send a request to the hub, with retries, and leave no connection open."""
        where = hub.describe(context.recipe.source.repo)
        with contextlib.closing(hub):
            return self._retry_policy(context).ask(question, where, context.console.warning)

    def _retry_policy(self, context: Context) -> Policy:
        if self._policy is None:
            self._policy = Policy.of(context.settings)
        return self._policy

    def _about(self, context: Context, source: Source) -> dict[str, Any]:
        return {
            "hub": source.hub.name,
            "repo": source.hub.folder(source.repo),
            "revision": context.recipe.source.revision,
            "commit": source.commit,
        }

    def _config(
        self,
        context: Context,
        hub: Hub,
        commit: str,
        snapshot: Snapshot,
        files: tuple[RemoteFile, ...],
    ) -> dict[str, Any] | None:
        """The parsed config.json, from the snapshot or from the hub; None where it is not available."""
        file = next((f for f in files if f.path == CONFIG), None)
        if file is None:
            return None
        repo = context.recipe.source.repo
        with contextlib.suppress(ValueError):
            if snapshot.finished(file) is not None:
                return load_object(snapshot.path / file.path)
            return parse_object(self._ask(context, hub, lambda: hub.read(repo, commit, CONFIG)))
        return None


def _more_readable(private: Sequence[str], files: int) -> str:
    return (
        f"not everybody may read {len(private):,} of {files:,} files of the source, but everybody may read "
        f"what is published: {_some(private)}"
    )


def _accepted(unverified: Sequence[str], files: int) -> str:
    return (
        f"the hub lists no hash for {len(unverified):,} of {files:,} files, which source.unverified accepts: "
        f"nothing vouches for the bytes of {_some(unverified)}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[:3], *["..."] * (len(names) > 3)])
