"""Stage publish: point at the checkpoint that passed, keep what a rollback needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quantpipe.digest import digest_of
from quantpipe.errors import QuantpipeError, VerificationError
from quantpipe.publish import retention
from quantpipe.stage import Context, StageName, StagePlan, StageResult
from quantpipe.store import folders, succession
from quantpipe.store.history import Move
from quantpipe.store.outputs import PublishFigures, PublishOutput
from quantpipe.store.receipt import PublishReceipt
from quantpipe.store.sealed import verified_since
from quantpipe.store.succession import Origin

UNPUBLISHED_GRACE_SECONDS = 7 * 24 * 3600.0
"""A sealed but unpublished generation may belong to a run that is still at its smoke load."""


TRUSTED_SECONDS = 24 * 3600.0
"""What was read back and found right within this time is not read again before the pointer moves to it."""


class PublishStage:
    """One rename of a link: its readers see a complete checkpoint, the old one or the new one.

    What it points at has been read back lately: by verify in this run, or within `TRUSTED_SECONDS`. Otherwise
    it is hashed first: a changed smoke section publishes what was verified long ago, for example.

    Args:
        forced: somebody asked for it by name: what this run has not verified itself is hashed in any case.
    """

    name: StageName = "publish"

    def __init__(self, *, forced: bool = False) -> None:
        self._forced = forced

    def key(self, context: Context) -> str:
        """From the checkpoint's digest."""
        return digest_of([self.name, context.verify.digest])

    def plan(self, context: Context) -> StagePlan:
        """Which pointer would move."""
        store, recipe = context.store, context.recipe
        return StagePlan(
            self.name,
            "run",
            f"{store.pointer(recipe.name).path}, keeping {recipe.publish.keep} generations",
            notes=(*_readers(store.model(recipe.name), store.root), *_oddities(context)),
        )

    def preflight(self, context: Context) -> None:
        """Nothing beyond what the store needs anyway."""

    def run(self, context: Context) -> StageResult[PublishOutput, PublishFigures]:
        """Move the pointer, if it is where it was when the run began and the lease is still this run's.

        The receipts come first: whatever happens after the move, a rollback has what it needs.

        Raises:
            VerificationError: the generation lacks files, or proved damaged.
            RetryableError: another run took the lease, or somebody moved the pointer in the meantime.
        """
        store, name, digest, before = (
            context.store,
            context.recipe.name,
            context.verify.digest,
            context.pointed,
        )
        generation = store.generation(name, digest)
        if "verify" not in context.executed and (self._forced or _is_doubtful(context, generation)):
            _require_intact(context, generation)
        store.save_receipts(name, digest, context.receipts)
        context.require_lease()
        odd = _oddities(context)
        store.pointer(name).move(_move(context))
        retention.release(store, name, digest)
        return StageResult(
            PublishOutput(digest),
            PublishFigures(before, context.recipe.publish.keep, odd),
            f"current -> {digest[:12]}",
        )

    def still_there(self, context: Context, receipt: PublishReceipt) -> bool:
        """The pointer names it, or somebody has rolled back from it and it is held."""
        name, digest = context.recipe.name, receipt.outputs.digest
        current = context.store.current(name)
        return (current is not None and current.name == digest) or retention.held(context.store, name, digest)


def _move(context: Context) -> Move:
    origin = _origin(context)
    move = Move.of_now(context.verify.digest, "publish", previous=context.pointed, run=context.run.id)
    return replace(
        move, recipe=origin.recipe, source=origin.source, commit=origin.commit, pinned=origin.pinned
    )


def _origin(context: Context) -> Origin:
    """What the run is made from, as far as it is known: before the fetch, by its plan."""
    source, commit = context.recipe.source, None
    if "fetch" in context.receipts:
        commit = context.fetch.commit
    elif "fetch" in context.plans:
        commit = context.plans.fetch.commit
    pinned = commit is not None and source.revision == commit
    return Origin(context.recipe.digest(), f"{source.hub}:{source.repo}", commit, pinned)


def _oddities(context: Context) -> tuple[str, ...]:
    history = context.store.pointer(context.recipe.name).history
    return succession.oddities(succession.publishes(history), _origin(context))


def _readers(model: Path, root: Path) -> tuple[str, ...]:
    """A note where servers of other uids could not read what is published."""
    if not (found := folders.closed(model, below=root)):
        return ()
    modes, command = folders.how_to_open(found)
    return (f"servers that run as another user cannot read the checkpoint: {modes}; `{command}` opens it",)


def _is_doubtful(context: Context, generation: Path) -> bool:
    """Whether the pointer would move to what nobody has read back lately."""
    if context.pointed == generation.name:
        return False
    since = verified_since(generation)
    return since is None or since < context.store.clock() - TRUSTED_SECONDS


def _require_intact(context: Context, generation: Path) -> None:
    check = retention.hashing(context.store, context.console, jobs=context.settings.jobs)
    if found := check(generation):
        raise VerificationError(
            "the generation to point at is damaged",
            where=str(generation / found[0].path),
            hint="run the recipe again: a new copy takes its place",
            details=[mismatch.line() for mismatch in found],
        )


def conclude(context: Context) -> None:
    """After the last stage: keep the receipts with the generation, remove generations beyond `keep`.

    The checkpoint is published: nothing that fails here is an error of the run.
    """
    name, digest = context.recipe.name, context.publish.digest
    try:
        context.store.save_receipts(name, digest, context.receipts)
        _retire(context, name)
    except (OSError, ValueError, QuantpipeError) as error:
        context.console.warning(
            f"published, but the cleanup failed: {error}; finish it with `quantpipe prune`"
        )


def _retire(context: Context, name: str) -> None:
    keep = context.recipe.publish.keep
    for generation in retention.expired(context.store, name, keep, grace=UNPUBLISHED_GRACE_SECONDS):
        retention.remove(context.store, name, generation)
        context.console.line(f"          removed generation {generation.digest[:12]}")
