"""What differs between two generations: source, recipe, versions, sizes, quality, answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantpipe.report.document import Change, Topic
from quantpipe.report.settings import flat
from quantpipe.store.quality import Quality


@dataclass(frozen=True)
class Comparable:
    """What of a generation is compared with another one.

    Attributes:
        source: hub, repository and commit.
        settings: the recipe by section; empty where it is not known.
        versions: by package.
        figures: bytes, and how many probes were answered as known.
        quality: None where it was not measured.
    """

    source: Mapping[str, str]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    sizes: Mapping[str, int]
    answers: Mapping[str, int]
    quality: Quality | None


QUALITY_FIGURES = ("kl_mean", "kl_p99", "top1", "perplexity_bf16", "perplexity_quantized", "perplexity_ratio")
"""The figures of `Quality` that are compared between generations."""


def quality_figures(
    quality: Quality | None, names: Sequence[str] = QUALITY_FIGURES
) -> dict[str, float] | None:
    """Figures by name; None where nothing was measured."""
    return None if quality is None else {name: getattr(quality, name) for name in names}


def changes(before: Comparable, after: Comparable) -> tuple[Change, ...]:
    """Every value that differs, by topic."""
    known = bool(before.settings and after.settings)
    pairs: Iterable[tuple[Topic, Mapping[str, Any], Mapping[str, Any]]] = (
        ("source", before.source, after.source),
        ("recipe", dict(flat(before.settings)) if known else {}, dict(flat(after.settings)) if known else {}),
        ("version", before.versions, after.versions),
        ("size", before.sizes, after.sizes),
        ("quality", quality_figures(before.quality) or {}, quality_figures(after.quality) or {}),
        ("answers", before.answers, after.answers),
    )
    return tuple(change for topic, old, new in pairs for change in _differing(topic, old, new))


def _differing(topic: Topic, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            yield Change(topic, key, old.get(key), new.get(key))
