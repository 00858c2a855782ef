"""The same inputs give the same checkpoint: where they do not, something has to be explained first."""

from __future__ import annotations

from collections.abc import Iterator

from quantpipe.errors import VerificationError
from quantpipe.stage import Context
from quantpipe.store.manifest import Manifest
from quantpipe.store.outputs import QuantizeFigures
from quantpipe.store.receipt import QuantizeReceipt

_MOST_FILES = 10


def require(context: Context, key: str, written: Manifest, figures: QuantizeFigures, *, accept: bool) -> None:
    """Compare a new checkpoint with earlier ones of the same key.

    One that was made with other versions or threads may differ: a warning says so.

    Args:
        key: of stage quantize: source, spec and prompts.
        written: the new checkpoint.
        figures: how it was made.
        accept: a difference that nothing explains is a warning, too.

    Raises:
        VerificationError: an earlier one, made in the same way, differs.
    """
    for earlier in _of_key(context, key):
        if earlier.outputs.manifest == written:
            continue
        what = (
            f"the same source and recipe gave another checkpoint: {written.digest()[:12]} instead of "
            f"{earlier.outputs.manifest.digest()[:12]} of {earlier.started}"
        )
        reasons = list(_differences(earlier.figures, figures))
        if reasons or accept:
            because = f", made with {', '.join(reasons)}" if reasons else ""
            context.console.warning(f"{what}{because}")
        else:
            raise VerificationError(
                what,
                where=str(context.run.staging),
                hint="compare CPU model, memory and storage of the two hosts; `--force quantize` accepts the "
                "new checkpoint, which is kept",
                details=list(_files(earlier.outputs.manifest, written)),
            )
        return


def _of_key(context: Context, key: str) -> Iterator[QuantizeReceipt]:
    """The receipts of published generations with this key, the current one's first."""
    for receipts in context.store.published_receipts(context.recipe.name):
        if "quantize" in receipts and receipts.quantize.key == key:
            yield receipts.quantize


def _differences(earlier: QuantizeFigures, now: QuantizeFigures) -> Iterator[str]:
    if earlier.threads != now.threads:
        yield f"{now.threads} threads instead of {earlier.threads}"
    for name in sorted({*earlier.versions, *now.versions}):
        before, after = earlier.versions.get(name), now.versions.get(name)
        if before != after:
            yield f"{name} {after} instead of {before}"


def _files(earlier: Manifest, now: Manifest) -> Iterator[str]:
    before = {entry.path: entry.sha256 for entry in earlier.entries}
    other = [entry.path for entry in now.entries if before.get(entry.path) != entry.sha256]
    yield from (f"{path} differs" for path in other[:_MOST_FILES])
    if len(other) > _MOST_FILES:
        yield f"and {len(other) - _MOST_FILES} more"
