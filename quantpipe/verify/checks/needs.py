"""What a check may need of an examination. A check names one need, and is called with it or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from quantpipe.checkpoint.layout import Layout
from quantpipe.store.manifest import Mismatch
from quantpipe.verify.examination import Examination
from quantpipe.verify.fidelity.result import Fidelity
from quantpipe.verify.memory import Memory
from quantpipe.verify.model import Model
from quantpipe.verify.values import Values

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Need(Generic[T_co]):
    """Something that a check needs in order to run.

    Attributes:
        name: as docs/checks.md has it.
        text: what it is, and how a report says that it was not there.
        of: gives it; None where an examination lacks it.
    """

    name: str
    text: str
    of: Callable[[Examination], T_co | None]


class Measured(NamedTuple):
    """A model with the values of its tensors."""

    model: Model
    values: Values


class Compared(NamedTuple):
    """A model compared with its source."""

    model: Model
    fidelity: Fidelity


class Placed(NamedTuple):
    """A model on the devices of a server."""

    model: Model
    layout: Layout


class Known(NamedTuple):
    """A model with all that is known of its numbers: a check of it says more with a deep look."""

    model: Model
    values: Values | None
    fidelity: Fidelity | None


def _measured(examination: Examination) -> Measured | None:
    model, values = examination.model, examination.values
    return Measured(model, values) if model is not None and values is not None else None


def _compared(examination: Examination) -> Compared | None:
    model, fidelity = examination.model, examination.fidelity
    return Compared(model, fidelity) if model is not None and fidelity is not None else None


def _placed(examination: Examination) -> Placed | None:
    model, layout = examination.model, examination.layout
    return Placed(model, layout) if model is not None and layout is not None else None


def _known(examination: Examination) -> Known | None:
    model = examination.model
    return None if model is None else Known(model, examination.values, examination.fidelity)


DIRECTORY: Need[Examination] = Need("directory", "any directory", lambda found: found)
FILES: Need[Examination] = Need(
    "files",
    "a description that quantizes something",
    lambda found: found if found.checkpoint.quantized else None,
)
_MODEL = "a description and a config.json that can be read"
MODEL: Need[Model] = Need("model", _MODEL, lambda found: found.model)
NUMBERS: Need[Known] = Need("model", _MODEL, _known)
DEEP: Need[Measured] = Need("deep", "the values of the tensors (--deep)", _measured)
SOURCE: Need[Compared] = Need("source", "the BF16 source (--against)", _compared)
LAYOUT: Need[Placed] = Need("layout", "a parallel layout (--tp, --dp, --ep or --recipe)", _placed)
MEMORY: Need[Memory] = Need(
    "memory",
    "a layout whose sizes divide, and the memory of a device (--device-memory)",
    lambda found: found.memory,
)
MANIFEST: Need[tuple[Mismatch, ...]] = Need("manifest", "a manifest", lambda found: found.mismatches)

NEEDS: tuple[Need[object], ...] = (DIRECTORY, FILES, MODEL, DEEP, SOURCE, LAYOUT, MEMORY, MANIFEST)
"""Every need with a name of its own, for the documentation."""


def missing(need: Need[object], examination: Examination) -> str:
    """How a report says that a need was not there: what lacks a model lacks that first."""
    return MODEL.text if examination.model is None else need.text
