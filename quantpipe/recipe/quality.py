"""The quality section of a recipe: how far the quantized model may be from the BF16 one.

Nothing here decides a bit of the checkpoint, so that no stage's key and no digest contains it: a recipe that
changes it stays up to date, and what was published is not quantized again (docs/quality.md).
"""

from __future__ import annotations

from pydantic import Field, model_validator

from quantpipe.recipe.datasets import load_prompts
from quantpipe.recipe.files import Dataset, Prompts
from quantpipe.recipe.section import Section
from quantpipe.recipe.shipped import builtin_dataset

HELD_OUT = "held_out"
"""The shipped set: disjoint from those that decide the quantization."""


GATES = ("max_kl", "min_top1", "max_perplexity_ratio", "min_layer_sqnr")


def _held_out() -> Prompts:
    path = builtin_dataset(HELD_OUT)
    return Prompts(path, load_prompts(path))


class Quality(Section):
    """What is measured while quantizing, and the gates: a checkpoint that fails one of them is not published.

    Engine `stock` measures nothing. The default gates stop what is plainly broken, and nothing else, until a
    study on real language models says more (docs/quality.md). All gates are relative to the BF16 model and
    one-sided; null turns one off.

    Attributes:
        measure: whether the held-out set goes through both models while quantizing.
        dataset: the held-out prompts: none of them may decide the quantization.
        max_kl: of the mean divergence of the next-token distributions, nats.
        min_top1: of the share of tokens for which both models expect the same next token most.
        max_perplexity_ratio: of the quantized model's perplexity to the BF16 model's.
        min_layer_sqnr: of each layer's output on the same input, dB.
    """

    measure: bool = True
    dataset: Dataset = Field(default_factory=_held_out)
    max_kl: float | None = Field(default=1.0, gt=0)
    min_top1: float | None = Field(default=0.5, ge=0, le=1)
    max_perplexity_ratio: float | None = Field(default=2.0, gt=0)
    min_layer_sqnr: float | None = 0.0

    def given(self) -> list[str]:
        """The gates that the recipe sets itself: what `recipe show` printed has all defaults in it."""
        fields = type(self).model_fields
        return [gate for gate in GATES if getattr(self, gate) not in (None, fields[gate].default)]

    @model_validator(mode="after")
    def _has_figures(self) -> Quality:
        if not self.measure and (gates := self.given()):
            raise ValueError(f"{gates[0]} needs figures: remove it, or `measure: false`")
        return self
