"""The quality gates of the recipe, and how far a generation is from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from quantpipe.recipe.quality import GATES
from quantpipe.report.document import Gate
from quantpipe.store.quality import Quality


def gates_of(settings: Mapping[str, Any], quality: Quality | None) -> tuple[Gate, ...]:
    """Those that are set; empty where nothing was measured, or where the recipe is not known."""
    limits = settings.get("quality")
    if quality is None or not isinstance(limits, Mapping):
        return ()
    return tuple(_judged(limits, quality))


def _judged(limits: Mapping[str, Any], quality: Quality) -> Iterator[Gate]:
    values = {
        "max_kl": quality.kl_mean,
        "min_top1": quality.top1,
        "max_perplexity_ratio": quality.perplexity_ratio,
        "min_layer_sqnr": min((layer.sqnr for layer in quality.layers), default=None),
    }
    for key in GATES:
        limit, value = limits.get(key), values.get(key)
        if limit is not None and value is not None:
            yield Gate(key, limit, value, value <= limit if key.startswith("max_") else value >= limit)
