"""What a run leaves on disk: a receipt per finished stage, and the run's directory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from quantpipe import durable
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.store import folders
from quantpipe.store.outputs import (
    CONTENTS,
    Cost,
    FetchFigures,
    FetchOutput,
    Figures,
    Output,
    PublishFigures,
    PublishOutput,
    QuantizeFigures,
    QuantizeOutput,
    SmokeFigures,
    SmokeOutput,
    VerifyFigures,
    VerifyOutput,
    not_a_receipt,
)
from quantpipe.store.stages import STAGE_NAMES, StageName

_STAMP = "%Y%m%dT%H%M%S.%fZ"
_RUN_ID = re.compile(r"\w[\w.-]{0,99}")

OutputT = TypeVar("OutputT", bound=Output)
FiguresT = TypeVar("FiguresT", bound=Figures)


@dataclass(frozen=True)
class Receipt(Generic[OutputT, FiguresT]):
    """What a finished stage leaves, as JSON.

    Attributes:
        stage: the stage's name.
        key: digest of everything that decided the result.
        outputs: what later stages need; paths are relative to the store.
        figures: for people: bytes, counts, findings, probes.
        started: UTC time, ISO 8601.
        seconds: wall time of the run.
        summary: one line for people.
        cost: what it took beside time, compared with the plan; None where that was not measured.
    """

    stage: StageName
    key: str
    outputs: OutputT
    figures: FiguresT
    started: str
    seconds: float
    summary: str = ""
    cost: Cost | None = None

    def to_json(self) -> dict[str, Any]:
        """The receipt as a JSON object."""
        value = {
            "stage": self.stage,
            "key": self.key,
            "outputs": self.outputs.to_json(),
            "figures": self.figures.to_json(),
            "started": self.started,
            "seconds": self.seconds,
            "summary": self.summary,
        }
        return value if self.cost is None else {**value, "cost": self.cost.to_json()}

    def moved(self, old: str, new: str) -> Receipt[OutputT, FiguresT]:
        """The same after the run directory `old` has become `new`, both relative to the store."""
        return replace(self, outputs=self.outputs.moved(old, new))


AnyReceipt = Receipt[Any, Any]
FetchReceipt = Receipt[FetchOutput, FetchFigures]
QuantizeReceipt = Receipt[QuantizeOutput, QuantizeFigures]
VerifyReceipt = Receipt[VerifyOutput, VerifyFigures]
SmokeReceipt = Receipt[SmokeOutput, SmokeFigures]
PublishReceipt = Receipt[PublishOutput, PublishFigures]


def receipt_from_json(value: Any, *, where: str, stage: str | None = None) -> AnyReceipt:
    """Read what `Receipt.to_json` made.

    Args:
        where: the file it came from, for the error.
        stage: whose receipt it has to be; None where any will do.

    Raises:
        VerificationError: it is not a receipt, or another stage's.
    """
    if not isinstance(value, dict):
        raise not_a_receipt(f"{type(value).__name__} instead of an object", where)
    name = value.get("stage")
    if name not in STAGE_NAMES or stage not in (None, name):
        raise not_a_receipt(f"stage is {name!r}" + (f" instead of {stage!r}" if stage else ""), where)
    outputs, figures = CONTENTS[name]
    text = {key: value.get(key) for key in ("key", "started")} | {"summary": value.get("summary", "")}
    seconds = value.get("seconds")
    if wrong := [key for key, found in text.items() if not isinstance(found, str)]:
        raise not_a_receipt(f"{wrong[0]} is {text[wrong[0]]!r}", where)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise not_a_receipt(f"seconds is {seconds!r}", where)
    return Receipt(
        stage=name,
        key=cast(str, text["key"]),
        outputs=outputs.from_json(value.get("outputs"), where=where),
        figures=figures.from_json(value.get("figures"), where=where),
        started=cast(str, text["started"]),
        seconds=seconds,
        summary=cast(str, text["summary"]),
        cost=None if value.get("cost") is None else Cost.from_json(value["cost"], where=where),
    )


class Receipts(dict[StageName, AnyReceipt]):
    """The receipts of one run, or of one published generation, by stage and in their order.

    The attributes are for code that knows the stage, and typed; a KeyError says that it has not finished.
    """

    @property
    def fetch(self) -> FetchReceipt:
        """Of stage fetch."""
        return self["fetch"]

    @property
    def quantize(self) -> QuantizeReceipt:
        """Of stage quantize."""
        return self["quantize"]

    @property
    def verify(self) -> VerifyReceipt:
        """Of stage verify."""
        return self["verify"]

    @property
    def smoke(self) -> SmokeReceipt:
        """Of stage smoke."""
        return self["smoke"]

    @property
    def publish(self) -> PublishReceipt:
        """Of stage publish."""
        return self["publish"]

    @classmethod
    def of(cls, *receipts: AnyReceipt) -> Receipts:
        """From receipts in the order of their stages."""
        return cls({receipt.stage: receipt for receipt in receipts})

    def to_json(self) -> dict[str, Any]:
        """A JSON object: receipts by stage."""
        return {name: receipt.to_json() for name, receipt in self.items()}

    @classmethod
    def from_json(cls, value: dict[str, Any], *, where: str) -> Receipts:
        """Read what `to_json` made; stages that this version does not know are left out.

        Raises:
            VerificationError: one of them is not a receipt.
        """
        known = [name for name in value if name in STAGE_NAMES]
        return cls.of(*(receipt_from_json(value[name], where=where, stage=name) for name in known))


@dataclass(frozen=True)
class RunDirectory:
    """`<store>/runs/<recipe name>/<run id>/`: staging, receipts, events and logs of one run."""

    path: Path

    @property
    def id(self) -> str:
        """The run's id: UTC time and a few random digits."""
        return self.path.name

    @property
    def staging(self) -> Path:
        """Where the checkpoint is written until it is verified."""
        return self.path / "staging"

    @property
    def logs(self) -> Path:
        """The logs of the worker and of the server."""
        return self.path / "logs"

    @property
    def events(self) -> Path:
        """One JSON object per line: all that happened."""
        return self.path / "events.jsonl"

    def receipts(self) -> Receipts:
        """The receipts of all stages that have finished.

        Raises:
            VerificationError: one of the files is not a receipt.
        """
        found = [self.load(stage) for stage in STAGE_NAMES]
        return Receipts.of(*(receipt for receipt in found if receipt is not None))

    def receipt_path(self, stage: str) -> Path:
        """The path of the receipt of `stage`."""
        return self.path / "receipts" / f"{stage}.json"

    @property
    def state_path(self) -> Path:
        """run.json: who runs it, since when, and how it ended."""
        return self.path / "run.json"

    def state(self) -> dict[str, Any]:
        """The content of run.json; empty where it is missing or unreadable."""
        try:
            return load_object(self.state_path)
        except (OSError, ValueError):
            return {}

    def began(self) -> float:
        """When the run began, in seconds since the epoch by the file server's clock, as run.json has it.

        Without that (a run of 0.1.0, or one that was killed at once) by its host's clock, as its id has it.
        """
        began = self.state().get("began")
        if isinstance(began, float) and math.isfinite(began):
            return began
        try:
            stamp = datetime.strptime(self.id.rpartition("-")[0], _STAMP)
        except ValueError:
            return 0.0
        return stamp.replace(tzinfo=timezone.utc).timestamp()

    def update_state(self, **changes: Any) -> None:
        """Change some keys of run.json, atomically."""
        durable.write_json(self.state_path, {**self.state(), **changes})

    def create(self) -> None:
        """Create the run's folders; harmless if they exist."""
        folders.make_readable(self.path.parent)
        for folder in (self.path, self.logs, self.path / "receipts"):
            folders.make_own(folder)

    def lineage(self) -> Iterator[RunDirectory]:
        """This run, the one that it continues, and so on; each once, even if run.json has a loop."""
        run, seen = self, set[str]()
        while run.id not in seen:
            yield run
            seen.add(run.id)
            before = run.state().get("continues")
            if not isinstance(before, str) or not _RUN_ID.fullmatch(before):
                return
            run = RunDirectory(run.path.with_name(before))

    def save(self, receipt: AnyReceipt) -> None:
        """Keep a receipt, durably."""
        durable.write_json(self.receipt_path(receipt.stage), receipt.to_json())

    def load(self, stage: StageName) -> AnyReceipt | None:
        """The receipt of `stage`; None where the stage has not finished.

        Raises:
            VerificationError: the file is not its receipt.
        """
        path = self.receipt_path(stage)
        if not path.is_file():
            return None
        return receipt_from_json(read_receipt_file(path), where=str(path), stage=stage)


def read_receipt_file(path: Path) -> dict[str, Any]:
    """The JSON object of a file that holds one receipt, or several by stage.

    Raises:
        VerificationError: it is not a JSON object.
    """
    try:
        return load_object(path)
    except ValueError as error:
        raise not_a_receipt(f"it {error}", str(path)) from error
