"""The quality gates of the recipe, and how far a generation is from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantpipe.report.document import Gate
from quantpipe.store.quality import Quality, judge


def gates_of(settings: Mapping[str, Any], quality: Quality | None) -> tuple[Gate, ...]:
    """Those that are set; empty where nothing was measured, or where the recipe is not known."""
    limits = settings.get("quality")
    if quality is None or not isinstance(limits, Mapping):
        return ()
    return tuple(Gate(*judged) for judged in judge(limits, quality))
