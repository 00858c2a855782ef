"""Stage publish: let the pointer name the checkpoint that passed, keep what a rollback needs."""

from __future__ import annotations

from quantpipe.digest import digest_of
from quantpipe.publish import retention
from quantpipe.stage import Context, StageName, StagePlan, StageResult
from quantpipe.store.outputs import PublishFigures, PublishOutput
from quantpipe.store.receipt import PublishReceipt

UNPUBLISHED_GRACE_SECONDS = 7 * 24 * 3600.0
"""A sealed but unpublished generation may belong to a run that is still at its smoke load."""


class PublishStage:
    """One rename of a link: whoever follows it sees the old checkpoint whole or the new one whole."""

    name: StageName = "publish"

    def key(self, context: Context) -> str:
        """From the checkpoint's digest."""
        return digest_of([self.name, context.verify.digest])

    def plan(self, context: Context) -> StagePlan:
        """Which pointer would move."""
        pointer = context.store.pointer(context.recipe.name)
        return StagePlan(self.name, "run", f"{pointer}, keeping {context.recipe.publish.keep} generations")

    def preflight(self, context: Context) -> None:
        """Nothing beyond what the store needs anyway."""

    def run(self, context: Context) -> StageResult[PublishOutput, PublishFigures]:
        """Move the pointer."""
        digest = context.verify.digest
        previous = context.store.current(context.recipe.name)
        retention.release(context.store, context.recipe.name, digest)
        context.store.point(context.recipe.name, digest)
        return StageResult(
            PublishOutput(digest),
            PublishFigures(previous.name if previous else None, context.recipe.publish.keep),
            f"current -> {digest[:12]}",
        )

    def still_there(self, context: Context, receipt: PublishReceipt) -> bool:
        """The pointer names it, or somebody has rolled back from it and it is held."""
        name, digest = context.recipe.name, receipt.outputs.digest
        current = context.store.current(name)
        return (current is not None and current.name == digest) or retention.held(context.store, name, digest)


def conclude(context: Context) -> None:
    """After the last stage: keep the receipts with the generation, remove generations beyond `keep`."""
    name, digest = context.recipe.name, context.publish.digest
    context.store.save_receipts(name, digest, context.receipts)
    keep = context.recipe.publish.keep
    for generation in retention.expired(context.store, name, keep, grace=UNPUBLISHED_GRACE_SECONDS):
        context.console.line(f"          removed generation {generation.digest[:12]}")
        retention.remove(context.store, name, generation)
