"""quality.json, from the figures of all units: the embedding, the layers, the head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantpipe import durable
from quantpipe.quantize.worker.streaming.quality.figures import short
from quantpipe.store.quality import (
    LARGEST,
    QUALITY,
    LayerQuality,
    LinearQuality,
    PromptQuality,
    Quality,
    QualityReport,
)

WORST = 10
"""Linears in the summary."""

Figures = Mapping[str, Any]


def measured(units: Sequence[Figures | None], dataset: str) -> bool:
    """Whether all these units were measured with this held-out set."""
    return all(unit is not None and unit.get("dataset") == dataset for unit in units)


def write_report(folder: Path, units: Sequence[Figures | None]) -> None:
    """Write quality.json into the folder; `units` are those of the whole model."""
    known = [unit for unit in units if unit is not None]
    durable.write_json(folder / QUALITY, report(known).to_json())


def report(units: Sequence[Figures]) -> QualityReport:
    """All figures, and their summary."""
    linears = tuple(LinearQuality(**linear) for unit in units for linear in unit.get("linears", ()))
    prompts = tuple(PromptQuality(**prompt) for prompt in units[-1]["prompts"])
    kl = sorted(value for prompt in prompts for value in prompt.kl)
    summary = Quality(
        kl_mean=short(math.fsum(kl) / len(kl)),
        kl_p99=kl[min(math.ceil(0.99 * len(kl)), len(kl)) - 1],
        top1=short(units[-1]["top1"]),
        perplexity_bf16=_perplexity([value for prompt in prompts for value in prompt.bf16]),
        perplexity_quantized=_perplexity([value for prompt in prompts for value in prompt.quantized]),
        tokens=len(kl),
        dataset=units[-1]["dataset"],
        layers=tuple(LayerQuality(**unit["layer"]) for unit in units if "layer" in unit),
        worst_linears=_worst(linears),
        unreached_experts=tuple(name for unit in units for name in unit.get("unreached", ())),
    )
    return QualityReport(summary, linears, prompts)


def _perplexity(logprobs: Sequence[float]) -> float:
    """Capped: a log-probability that is not a number counts as -LARGEST."""
    mean = -math.fsum(logprobs) / len(logprobs)
    return short(min(math.exp(min(mean, 700.0)), LARGEST))


def _worst(linears: Sequence[LinearQuality]) -> tuple[LinearQuality, ...]:
    """Those with the lowest SQNR."""
    found = [(linear.sqnr, linear) for linear in linears if linear.sqnr is not None]
    return tuple(linear for _, linear in sorted(found, key=lambda pair: pair[0])[:WORST])
