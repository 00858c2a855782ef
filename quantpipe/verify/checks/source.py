"""Checks against the BF16 source: B13. The bounds are defined here, with their reasons."""

from __future__ import annotations

from collections.abc import Iterator

from quantpipe.checkpoint.tensors import FLOAT
from quantpipe.verify.checks.needs import SOURCE, Compared
from quantpipe.verify.checks.registry import check
from quantpipe.verify.fidelity.result import ModuleError
from quantpipe.verify.fidelity.rotation import ENDS, FLOAT_BOUND
from quantpipe.verify.finding import Defect
from quantpipe.verify.model import Model

# Per-channel int8 of near-Gaussian rows is about 1 %; rows ruled by one outlier go up to 15 %.
_INT8_BOUND = 0.1
# A sketch measures a single row or column to about a fifth; a stale or rescaled one is off by its own size.
_WORST_BOUND = 0.6


@check(
    "B13",
    needs=SOURCE,
    effect="the server computes with weights that differ from the source: "
    "stale shards, swapped experts, wrong scales",
    fix="quantize again from this source; when only some shards are named, they belong to another run",
)
def like_the_source(compared: Compared) -> Iterator[Defect]:
    """Every weight, with rotation, folding and smoothing undone, is that of the BF16 source."""
    model, fidelity = compared
    for name in fidelity.absent:
        yield Defect(name, "the source has no tensor of this name and shape")
    for item in fidelity.errors:
        if fidelity.rotation == "described" and item.module.kind in ENDS:
            continue  # B11's: they show whether the described rotation is the one that was applied
        name = f"{item.module.name}.{item.tensor}"
        if item.error > _bound(model, item):
            yield Defect(name, f"a {item.tensor} differs from the source", f"off by {item.error:.1%}")
        elif item.worst > _WORST_BOUND:
            yield Defect(name, "some rows of a weight differ from the source", f"off by {item.worst:.1%}")


def _bound(model: Model, item: ModuleError) -> float:
    """By the module's type, of a bias as well: v's is compared by a fit of the int8 weight."""
    kind = model.types[item.module.name]
    return FLOAT_BOUND if kind == FLOAT else _INT8_BOUND
