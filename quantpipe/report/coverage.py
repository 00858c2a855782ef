"""How well calibration reached the experts, from all figures of quality.json."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from statistics import median

from quantpipe.errors import VerificationError
from quantpipe.report.document import ExpertCoverage
from quantpipe.store.quality import LinearQuality, Quality, read_quality

_EXPERT = re.compile(r"\.layers\.(\d+)\..*?\.experts\.(\d+)\.")


def coverage_of(store: Path, quality: Quality | None) -> tuple[ExpertCoverage, ...]:
    """By layer; empty for a dense model, and where quality.json was removed with its run."""
    if quality is None or not quality.file:
        return ()
    try:
        linears = read_quality(store / quality.file).linears
    except VerificationError:
        return ()
    return tuple(_layer(layer, tokens) for layer, tokens in sorted(_tokens(linears).items()))


def _tokens(linears: tuple[LinearQuality, ...]) -> dict[int, list[int]]:
    """For each layer the tokens of each expert: those of its linear that saw the most."""
    seen: dict[tuple[int, int], int] = {}
    for linear in linears:
        if found := _EXPERT.search(f".{linear.name}."):
            place = int(found[1]), int(found[2])
            seen[place] = max(seen.get(place, 0), linear.calibration_tokens)
    layers: dict[int, list[int]] = defaultdict(list)
    for (layer, _), tokens in sorted(seen.items()):
        layers[layer].append(tokens)
    return layers


def _layer(layer: int, tokens: list[int]) -> ExpertCoverage:
    return ExpertCoverage(layer, len(tokens), tokens.count(0), min(tokens), round(median(tokens)))
