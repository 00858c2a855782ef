"""What a run leaves on disk: a receipt per finished stage, and the directory that they lie in."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpipe import durable
from quantpipe.errors import VerificationError


@dataclass(frozen=True)
class Receipt:
    """What a finished stage leaves, as JSON.

    Attributes:
        stage: the stage's name.
        key: digest of everything that decided the result.
        outputs: what later stages need; paths are relative to the store.
        figures: what a person wants to know: bytes, counts, findings, probes.
        started: UTC time, ISO 8601.
        seconds: wall time of the run.
        summary: one line for people.
    """

    stage: str
    key: str
    outputs: dict[str, Any]
    figures: dict[str, Any]
    started: str
    seconds: float
    summary: str = ""

    def to_json(self) -> dict[str, Any]:
        """The receipt as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> Receipt:
        """Read what `to_json` made.

        Raises:
            VerificationError: it is not a receipt.
        """
        try:
            return cls(**value)
        except TypeError as error:
            raise _no_receipt(error, where) from error


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
        """Where the checkpoint grows until it is verified."""
        return self.path / "staging"

    @property
    def logs(self) -> Path:
        """The logs of the worker and of the server."""
        return self.path / "logs"

    @property
    def events(self) -> Path:
        """One JSON object per line: all that happened."""
        return self.path / "events.jsonl"

    def receipt_path(self, stage: str) -> Path:
        """Where the receipt of `stage` lies."""
        return self.path / "receipts" / f"{stage}.json"

    @property
    def state_path(self) -> Path:
        """run.json: who runs it, since when, and how it ended."""
        return self.path / "run.json"

    def state(self) -> dict[str, Any]:
        """What run.json says; empty where there is none or where it cannot be read."""
        try:
            value = json.loads(self.state_path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def update_state(self, **changes: Any) -> None:
        """Change some keys of run.json, atomically."""
        durable.write_json(self.state_path, {**self.state(), **changes})

    def create(self) -> None:
        """Make the run's folders; harmless when they are there."""
        for folder in (self.logs, self.path / "receipts"):
            folder.mkdir(parents=True, exist_ok=True)

    def save(self, receipt: Receipt) -> None:
        """Keep a receipt, durably."""
        durable.write_json(self.receipt_path(receipt.stage), receipt.to_json())

    def load(self, stage: str) -> Receipt | None:
        """The receipt of `stage`; None where the stage has not finished."""
        path = self.receipt_path(stage)
        if not path.is_file():
            return None
        return Receipt.from_json(read_receipt_file(path), where=str(path))


def read_receipt_file(path: Path) -> dict[str, Any]:
    """The JSON object of a file that holds one receipt, or several by stage.

    Raises:
        VerificationError: it is not JSON, or no object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise _no_receipt(error, str(path)) from error
    if not isinstance(value, dict):
        raise _no_receipt(f"{type(value).__name__} instead of an object", str(path))
    return value


def _no_receipt(why: object, where: str) -> VerificationError:
    hint = "remove the file: the stages that it stood for run again"
    return VerificationError(f"not a receipt: {why}", where=where, hint=hint)
