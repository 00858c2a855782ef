"""How values read in a report: numbers, digests, times, names of kinds and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quantpipe.text import human_bytes, human_seconds

KINDS: Mapping[str, str] = {
    "embed": "embedding",
    "head": "output head",
    "router": "router",
    "norm": "norm",
    "attention": "attention",
    "mlp": "MLP",
    "expert": "expert",
    "other": "other tensors",
}
"""Kinds of modules as people say them."""

TYPES: Mapping[str, str] = {
    "FLOAT": "not quantized",
    "W8A8": "int8 weights and activations, one activation scale from calibration",
    "W8A8_DYNAMIC": "int8 weights and activations, activation scales per token",
    "W4A8_DYNAMIC": "int4 weights, int8 activations with scales per token",
}
"""What the quantization types mean."""

UNKNOWN = "not known"


def short(digest: str) -> str:
    """The first 12 digits of a digest."""
    return digest[:12]


def number(count: int, what: str) -> str:
    """`1 layer`, `94 layers`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def percent(share: float) -> str:
    """A share of 1: `97.1 %`; what is not all never reads as 100 %."""
    text = f"{100 * share:.1f} %"
    return "99.9 %" if text == "100.0 %" and share < 1 else text.replace("100.0", "100")


def perplexity(value: float) -> str:
    """Four digits, as far as they mean something: `9.871`, `924,585`."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"


def decibels(value: float | None) -> str:
    """A ratio in dB; a dash where there is none."""
    return "–" if value is None else f"{value:.1f}"


def figure(key: str, value: Any) -> str:
    """A value of a change, by its key; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return percent(value) if key == "top1" else f"{value:.4g}"
    if key.endswith("bytes") and isinstance(value, int):
        return f"{human_bytes(value)} ({value:,})"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def types(counts: Mapping[str, int]) -> str:
    """`72 W8A8_DYNAMIC, 12 W8A8`, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {kind}" for kind, count in ordered)


def share(part: int, whole: int) -> str:
    """How much of the whole is left; a dash where there was nothing."""
    return f"{100 * part / whole:.0f} %" if whole else "–"


def memory(count: int) -> str:
    """Bytes; a dash where they were not measured or planned."""
    return human_bytes(count) if count else "–"


def seconds(value: float | None) -> str:
    """A time; a dash where there is none."""
    return "–" if value is None else human_seconds(value)
