"""The quality section of a recipe: how far the quantized model may be from the BF16 one.

Nothing here decides a bit of the checkpoint, so that no stage's key and no digest contains it: a recipe that
changes it stays up to date, and what was published is not quantized again (docs/quality.md).
"""

from __future__ import annotations

from pydantic import Field

from quantpipe.recipe.datasets import load_prompts
from quantpipe.recipe.files import Dataset, Prompts
from quantpipe.recipe.section import Section
from quantpipe.recipe.shipped import builtin_dataset

HELD_OUT = "held_out"
"""The shipped set: disjoint from those that decide the quantization."""


def _held_out() -> Prompts:
    path = builtin_dataset(HELD_OUT)
    return Prompts(path, load_prompts(path))


class Quality(Section):
    """What is measured while quantizing. Engine `stock` measures nothing.

    Attributes:
        measure: whether the held-out set goes through both models while quantizing.
        dataset: the held-out prompts: none of them may decide the quantization.
    """

    measure: bool = True
    dataset: Dataset = Field(default_factory=_held_out)
