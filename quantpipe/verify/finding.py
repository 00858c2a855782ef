"""Findings: one result of a check, with all the places where it holds on a few lines."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

_LAYER = re.compile(r"^model\.layers\.(\d+)\.")
_EXPERT = re.compile(r"^mlp\.experts\.(\d+)\.")
_MAX_PLACES = 12
_MAX_TEXT = 300


class Severity(str, Enum):
    """How bad: an error is not published, a warning may be wrong, a note is worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Defect:
    """What a check yields: one place where something is wrong.

    Attributes:
        subject: the tensor, module or file.
        text: what is wrong, the same words for the same fault: defects are grouped by it.
        detail: the numbers of this one place.
        severity: where it is not the check's own.
    """

    subject: str
    text: str
    detail: str = ""
    severity: Severity | None = None


@dataclass(frozen=True)
class Finding:
    """All defects of one check with the same text.

    Attributes:
        id: of the check; see [checks.md](checks.md).
        severity: an error is not published, a warning may be wrong, a note is worth knowing.
        where: the places, ranges folded: `model.layers.{0-93}.mlp.experts.7.{down,gate,up}_proj.weight`.
        count: how many places there are.
        text: what is wrong.
        detail: the numbers of the first place.
        effect: what goes wrong at serving.
        fix: what to do.
    """

    id: str
    severity: Severity
    text: str
    where: tuple[str, ...]
    count: int
    detail: str
    effect: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return {**asdict(self), "severity": self.severity.value, "where": list(self.where)}

    def line(self) -> str:
        """What and where, in one line."""
        places = ", ".join(self.where)
        more = f" ({self.count} places)" if self.count > 1 else ""
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.id} {self.severity.value}: {self.text}{detail} [{places}]{more}"


def group_defects(
    check_id: str, severity: Severity, effect: str, fix: str, defects: Iterable[Defect]
) -> list[Finding]:
    """One finding for each text and severity, in order of appearance."""
    groups: dict[tuple[str, Severity], list[Defect]] = defaultdict(list)
    for defect in defects:
        groups[printable(defect.text), defect.severity or severity].append(defect)
    findings = []
    for (text, level), members in groups.items():
        subjects = list(dict.fromkeys(printable(member.subject) for member in members))
        where = fold_names(subjects)
        if len(where) > _MAX_PLACES:
            where = [*where[:_MAX_PLACES], f"and {len(where) - _MAX_PLACES} more"]
        findings.append(
            Finding(
                check_id, level, text, tuple(where), len(subjects), printable(members[0].detail), effect, fix
            )
        )
    return findings


def printable(text: str) -> str:
    """`text` as any terminal may see it: names come from files, and may hold control characters or worse."""
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + "..."
    return text if text.isprintable() else ascii(text)[1:-1]


def fold_names(names: Iterable[str]) -> list[str]:
    """Names with their layer numbers, expert numbers and tails folded where the same set repeats."""
    tails: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
    plain: list[str] = []
    for name in dict.fromkeys(names):
        if not (found := _LAYER.match(name)):
            plain.append(name)
            continue
        rest = name[found.end() :]
        inner = _EXPERT.match(rest)
        expert = int(inner.group(1)) if inner else -1
        tail = rest[inner.end() :] if inner else rest
        tails["experts" if inner else "", tail].add((int(found.group(1)), expert))
    sets: dict[tuple[str, frozenset[tuple[int, int]]], list[str]] = defaultdict(list)
    for (kind, tail), places in tails.items():
        sets[kind, frozenset(places)].append(tail)
    return plain + [_folded(kind, places, names) for (kind, places), names in sets.items()]


def _folded(kind: str, places: frozenset[tuple[int, int]], tails: list[str]) -> str:
    layers = _ranges({layer for layer, _ in places})
    tail = tails[0] if len(tails) == 1 else "{" + ",".join(_shortened(tails)) + "}"
    if not kind:
        return f"model.layers.{layers}.{tail}"
    experts = {expert for _, expert in places}
    return f"model.layers.{layers}.mlp.experts.{_ranges(experts)}.{tail}"


def _shortened(tails: list[str], most: int = 6) -> list[str]:
    return tails if len(tails) <= most else [*tails[:most], f"and {len(tails) - most} more"]


def _ranges(numbers: set[int]) -> str:
    """`{0-3,7}` for 0, 1, 2, 3, 7; a single number without braces."""
    ordered = sorted(numbers)
    if len(ordered) == 1:
        return str(ordered[0])
    parts: list[list[int]] = []
    for number in ordered:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    shown = [str(a) if a == b else f"{a}-{b}" for a, b in parts]
    return "{" + ",".join(_shortened(shown, 8)) + "}"
