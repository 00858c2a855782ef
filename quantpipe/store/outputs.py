"""What finished stages pass on (outputs) and report (figures): the typed contents of receipts.

They are declared below the stages, since no stage imports another. Laws, which tests check:

- `from_json(x.to_json()) == x`, and a receipt that 0.1.0 wrote is written again byte for byte;
- a field that a later version adds has a default, and stays out of the JSON while it has that value;
- what a later version added is ignored, what is missing or of another type is a VerificationError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from quantpipe.errors import VerificationError
from quantpipe.store.manifest import Manifest
from quantpipe.store.quality import Quality
from quantpipe.store.stages import StageName

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from typing_extensions import Self


class Record:
    """Base of the frozen dataclasses here: to JSON and back."""

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the fields in their order."""
        return {
            field.name: _plain(getattr(self, field.name))
            for field in fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
            if field.default is MISSING or getattr(self, field.name) != field.default
        }

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> Self:
        """Read what `to_json` made.

        Args:
            where: the file it came from, for the error.

        Raises:
            VerificationError: a field is missing, or of another type.
        """
        from pydantic import ValidationError  # slow to import, and most commands read no receipt

        try:
            # By way of JSON text: pydantic's strict rules take arrays for tuples only there.
            text = json.dumps(value)
            record: Self = _adapter(cls).validate_json(text, strict=True)  # type: ignore[arg-type]
        except ValidationError as error:
            found = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in found["loc"])
            raise not_a_receipt(f"{name}: {found['msg']}" if name else found["msg"], where) from error
        return record


@cache
def _adapter(record: type[Any]) -> TypeAdapter[Any]:
    """Made once: that takes 3 ms, and a store has thousands of receipts."""
    from pydantic import TypeAdapter

    return TypeAdapter(record)


class Output(Record):
    """What a later stage needs of an earlier one. Paths are relative to the store."""

    def moved(self, old: str, new: str) -> Self:
        """The same after the run directory `old` has become `new`, both relative to the store."""
        del old, new
        return self


class Figures(Record):
    """What a person wants to know about a finished stage: bytes, counts, findings, probes."""


@dataclass(frozen=True)
class Cost(Record):
    """What a stage took beside time, and what its plan said.

    Attributes:
        memory_bytes: host memory at the peak, of all processes of the stage together, without mapped files.
        planned_memory_bytes: of the plan; 0 where it has no estimate.
        planned_seconds: of the plan; null where it has no estimate.
    """

    memory_bytes: int
    planned_memory_bytes: int
    planned_seconds: float | None


# -- outputs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FetchOutput(Output):
    """A snapshot.

    Attributes:
        snapshot: its path, relative to the store.
        commit: of the source.
        manifest: digest of its manifest.
    """

    snapshot: str
    commit: str
    manifest: str

    def __post_init__(self) -> None:
        _require_inside(self.snapshot)


@dataclass(frozen=True)
class QuantizeOutput(Output):
    """A checkpoint in a run's staging directory.

    Attributes:
        checkpoint: its path, relative to the store.
        manifest: of what was written.
        quality: what it keeps of the BF16 model's; None where that was not measured.
    """

    checkpoint: str
    manifest: Manifest
    quality: Quality | None = None

    def __post_init__(self) -> None:
        _require_inside(self.checkpoint)
        if self.quality is not None and self.quality.file:
            _require_inside(self.quality.file)

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> Self:
        """Read what `to_json` made; see `Record.from_json`."""
        try:
            manifest = Manifest.from_json(value["manifest"], where=where)
            return cls(_text(value["checkpoint"]), manifest, _quality(value.get("quality")))
        except (KeyError, TypeError, ValueError) as error:
            raise not_a_receipt(f"outputs of quantize: {error!r}", where) from error

    def moved(self, old: str, new: str) -> Self:
        """The same after the run directory `old` has become `new`."""
        if not self.checkpoint.startswith(f"{old}/"):
            return self
        return replace(self, checkpoint=new + self.checkpoint.removeprefix(old))


@dataclass(frozen=True)
class VerifyOutput(Output):
    """A sealed generation.

    Attributes:
        checkpoint: its path, relative to the store.
        digest: of its manifest, which is its name.
    """

    checkpoint: str
    digest: str

    def __post_init__(self) -> None:
        _require_inside(self.checkpoint)


@dataclass(frozen=True)
class SmokeOutput(Output):
    """Nothing: a smoke load leaves only its receipt."""


@dataclass(frozen=True)
class PublishOutput(Output):
    """A published generation.

    Attributes:
        digest: of the generation that the pointer names.
    """

    digest: str


# -- figures ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FetchedFile(Record):
    """What fetching one file took.

    Attributes:
        path: relative to the snapshot.
        bytes: its size.
        bytes_transferred: what the hub delivered, repetitions included.
        seconds: wall time, waits included.
        retries: number of retries.
        how: `fetched`, `linked` from an earlier snapshot, or `kept`: it already existed.
    """

    path: str
    bytes: int
    bytes_transferred: int
    seconds: float
    retries: int
    how: str


@dataclass(frozen=True)
class FetchFigures(Figures):
    """What fetching took.

    Attributes:
        files: in the snapshot.
        bytes: of the snapshot.
        bytes_transferred: what the hub delivered, repetitions included.
        seconds: wall time of the stage.
        retries: of all files together.
        per_file: the same by file, sorted by path.
        unverified: the files for which the hub listed no hash, which the recipe accepts; paths.
    """

    files: int
    bytes: int
    bytes_transferred: int
    seconds: float
    retries: int
    per_file: tuple[FetchedFile, ...]
    unverified: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuantizeFigures(Figures):
    """What quantizing took.

    Attributes:
        bytes: of the checkpoint.
        source_bytes: of the snapshot's weights.
        files: in the checkpoint.
        layers: decoder layers of the model.
        worker_seconds: the worker's own wall time.
        versions: of the packages in the worker's interpreter.
        threads: of torch, which can change the last bits on a CPU.
        resumed_units: units (embedding, layers, head) that an earlier run had finished.
    """

    bytes: int
    source_bytes: int
    files: int
    layers: int
    worker_seconds: float
    versions: dict[str, str]
    threads: int
    resumed_units: int


@dataclass(frozen=True)
class VerifyFigures(Figures):
    """What verifying found.

    Attributes:
        bytes: of the checkpoint.
        tensors: in the checkpoint.
        findings: how many there are of each severity.
        report: the whole report, as `verify --json` prints it.
    """

    bytes: int
    tensors: int
    findings: dict[str, int]
    report: dict[str, Any]


@dataclass(frozen=True)
class SmokeFigures(Figures):
    """What the server did.

    Attributes:
        launcher: how it was started.
        command: with which it was started; empty where it ran already.
        model: its answer about the model.
        ready_seconds: until it was ready.
        effective_quantization: the line of its log that says which quantization is in effect; None where
            the log is not here.
        probes: every probe with its request, answer and time.
        matched: probes whose answer matched the known one.
        known: probes whose answer is known.
        checks: every check with its request, answer and time.
        bench: the benchmark's numbers; None where the recipe has none.
        unverified: the server did not report which directory it serves, and the recipe accepts that.
    """

    launcher: str
    command: tuple[str, ...]
    model: dict[str, Any]
    ready_seconds: float
    effective_quantization: str | None
    probes: tuple[dict[str, Any], ...]
    matched: int
    known: int
    checks: tuple[dict[str, Any], ...]
    bench: dict[str, Any] | None
    unverified: bool = False


@dataclass(frozen=True)
class PublishFigures(Figures):
    """What publishing changed.

    Attributes:
        previous: digest that the pointer named before; None where there was no pointer.
        keep: generations that the recipe keeps.
        warnings: what is odd about it, seen from the publishes before; see `store.succession`.
    """

    previous: str | None
    keep: int
    warnings: tuple[str, ...] = ()


CONTENTS: Mapping[StageName, tuple[type[Output], type[Figures]]] = {
    "fetch": (FetchOutput, FetchFigures),
    "quantize": (QuantizeOutput, QuantizeFigures),
    "verify": (VerifyOutput, VerifyFigures),
    "smoke": (SmokeOutput, SmokeFigures),
    "publish": (PublishOutput, PublishFigures),
}
"""Outputs and figures of each stage."""


def not_a_receipt(why: object, where: str) -> VerificationError:
    """The error for a file, or a part of it, that is not a receipt."""
    hint = "remove the file: its stages will run again"
    return VerificationError(f"not a receipt: {why}", where=where, hint=hint)


def _plain(value: Any) -> Any:
    if isinstance(value, Record | Manifest):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return json.loads(json.dumps(asdict(value)))  # arrays for its tuples
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _quality(value: Any) -> Quality | None:
    """Raises pydantic's ValidationError, which is a ValueError, where it is something else."""
    if value is None:
        return None
    quality: Quality = _adapter(Quality).validate_json(json.dumps(value), strict=True)
    return quality


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _require_inside(path: str) -> None:
    """An edited receipt cannot lead out of the store."""
    pure = PurePosixPath(path)
    if not path or "\0" in path or pure.is_absolute() or ".." in pure.parts:
        raise ValueError(f"{path!r} is not inside the store")
