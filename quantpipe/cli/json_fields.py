"""The fields of the JSON objects that commands print: names and types from classes, texts from docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints, is_typeddict

from quantpipe.cli import values
from quantpipe.operate.report import ScrubReport
from quantpipe.publish.prune import Candidate
from quantpipe.report.document import GenerationReport
from quantpipe.smoke.bench import BenchFigures
from quantpipe.smoke.conformance import Exchange
from quantpipe.smoke.probes import Reply
from quantpipe.store.manifest import ManifestJson, Mismatch
from quantpipe.store.outputs import CONTENTS, QuantizeOutput, Record, SmokeFigures, VerifyFigures
from quantpipe.store.receipt import Receipt
from quantpipe.store.status import LastRun, RecipeStatus
from quantpipe.verify.fidelity.result import FidelityFigures
from quantpipe.verify.memory import MemoryFigures
from quantpipe.verify.report import Report, ReportFigures

_INNER: Mapping[tuple[type, str], Any] = {
    (values.RunJson, "stages"): list[Receipt],  # type: ignore[type-arg]
    (values.PlanJson, "obstacles"): list[values.ErrorJson],
    (values.RollbackJson, "damaged"): dict[str, list[Mismatch]],
    (values.PruneJson, "candidates"): list[Candidate],
    (RecipeStatus, "run"): LastRun | None,
    (ScrubReport, "unread"): list[values.ErrorJson],
    (LastRun, "error"): values.FailedEvent,
    (QuantizeOutput, "manifest"): ManifestJson,
    (VerifyFigures, "report"): Report,
    (SmokeFigures, "probes"): tuple[Reply, ...],
    (SmokeFigures, "checks"): tuple[Exchange, ...],
    (SmokeFigures, "bench"): BenchFigures | None,
    (GenerationReport, "verify"): Report,
    (Report, "figures"): ReportFigures,
    (ReportFigures, "fidelity"): FidelityFigures,
    (ReportFigures, "memory"): MemoryFigures,
}
"""What an object holds where the class itself cannot say so: its room may not import the other one."""

_ABSENT: Mapping[type, frozenset[str]] = {Receipt: frozenset({"cost"})}
"""What an object that is no `Record` leaves out where it is None."""

_COMPUTED: Mapping[type, tuple[str, ...]] = {
    Report: ("ok", "counts"),
    ScrubReport: ("status", "complete"),
}
"""Properties and methods whose result is in the JSON as well."""

_EXTENDED: Mapping[type, type] = {values.FailureJson: values.ErrorJson}
"""Typed dictionaries that extend another one: before Python 3.12 they do not know which."""


@dataclass(frozen=True)
class Field:
    """A key of a JSON object.

    Attributes:
        kind: its type, as an annotation.
        required: whether it is always there.
        text: what it means.
    """

    name: str
    kind: Any
    required: bool
    text: str


def is_object(kind: Any) -> bool:
    """Whether a type stands for a JSON object with known keys."""
    return isinstance(kind, type) and (is_typeddict(kind) or dataclasses.is_dataclass(kind))


def fields_of(kind: type, stage: str | None = None) -> list[Field]:
    """The keys of an object in their order.

    Args:
        stage: for a receipt: whose, which decides what `outputs` and `figures` are.

    Raises:
        LookupError: one of them has no text in the docstring.
    """
    texts = _texts(kind)
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name in _names(kind)}
    for name in _COMPUTED.get(kind, ()):
        member = inspect.getattr_static(kind, name)
        function = member.fget if isinstance(member, property) else member
        hints[name] = get_type_hints(function)["return"]
        summary = (function.__doc__ or "").partition("\n")[0].rstrip(".")
        texts[name] = summary[:1].lower() + summary[1:]
    if kind is Receipt and stage is not None:
        hints |= dict(zip(("outputs", "figures"), CONTENTS[stage], strict=True))  # type: ignore[index]
    if missing := [name for name in hints if not texts.get(name)]:
        raise LookupError(f"{kind.__module__}.{kind.__name__}: no text for {missing}")
    required = _required(kind)
    return [
        Field(
            name,
            _INNER.get((kind, name), hint),
            name in required or name in _COMPUTED.get(kind, ()),
            texts[name],
        )
        for name, hint in hints.items()
    ]


def _names(kind: type) -> list[str]:
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return list(kind.__annotations__)


def _required(kind: type) -> frozenset[str]:
    """What is always there: of a typed dictionary what it says, of a `Record` what has no default."""
    if not dataclasses.is_dataclass(kind):
        required: frozenset[str] = kind.__required_keys__  # type: ignore[attr-defined]
        return required
    optional = issubclass(kind, Record)
    found = dataclasses.fields(kind)
    absent = _ABSENT.get(kind, frozenset())
    return frozenset(
        f.name for f in found if f.name not in absent and (not optional or f.default is dataclasses.MISSING)
    )


def _texts(kind: type) -> dict[str, str]:
    """The texts of a class's Attributes section, by name."""
    own = _attributes(inspect.cleandoc(kind.__doc__ or ""))
    return own | _texts(_EXTENDED[kind]) if kind in _EXTENDED else own


def _attributes(docstring: str) -> dict[str, str]:
    _, _, section = docstring.partition("\nAttributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if begun := re.fullmatch(r"    (\w+): (.*)", line):
            name = begun[1]
            found[name] = begun[2]
        elif line.startswith("        ") and name:
            found[name] += " " + line.strip()
        else:
            break
    return {name: text.rstrip(".") for name, text in found.items()}
