"""The interface of a stage: a key, a plan, a run that leaves a receipt.

A stage's key is a digest of everything that determines its result: its section of the recipe and the outputs
of the earlier stages. A receipt with the same key, whose outputs still exist, marks the stage as up to date:
this one rule gives resume, no-op refreshes and partial re-runs.

What stages pass to one another is typed: outputs and figures in `store/outputs.py`, plans here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, cast

from quantpipe.digest import digest_of
from quantpipe.store.outputs import (
    FetchOutput,
    PublishOutput,
    QuantizeOutput,
    VerifyOutput,
)
from quantpipe.store.receipt import FiguresT, OutputT, Receipt, Receipts, RunDirectory
from quantpipe.store.stages import STAGE_NAMES, StageName

if TYPE_CHECKING:
    from quantpipe.console import Console
    from quantpipe.recipe.model import Recipe
    from quantpipe.settings import Settings
    from quantpipe.store.lease import Lease
    from quantpipe.store.store import Store


@dataclass(frozen=True)
class StagePlan:
    """What a stage would do and what it would cost.

    Attributes:
        stage: the stage's name.
        action: "run", or "reuse" when a receipt marks it as up to date.
        summary: one line for people.
        disk_bytes: bytes that the stage would add to the store.
        memory_bytes: peak host memory that it needs.
        notes: things that the user should know beforehand.
    """

    stage: StageName
    action: Literal["run", "reuse"]
    summary: str
    disk_bytes: int = 0
    memory_bytes: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FetchPlan(StagePlan):
    """The plan of stage fetch.

    Attributes:
        source_bytes: of the snapshot, including what is already there.
        missing_files: how many have to be fetched.
        config: the model's parsed config.json; None where it is not available.
        commit: of the source; None where a directory has to be hashed first.
    """

    source_bytes: int = 0
    missing_files: int = 0
    config: dict[str, Any] | None = None
    commit: str | None = None


@dataclass(frozen=True)
class QuantizePlan(StagePlan):
    """The plan of stage quantize.

    Attributes:
        checkpoint_bytes: of the checkpoint, including what is already there.
        seconds: a rough estimate of the time; None where config.json is not available.
    """

    checkpoint_bytes: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class VerifyPlan(StagePlan):
    """The plan of stage verify: how many bytes it reads."""

    read_bytes: int = 0


class Plans(dict[StageName, StagePlan]):
    """Plans by stage; the attributes are typed, and a KeyError says that there is no plan yet."""

    @property
    def fetch(self) -> FetchPlan:
        """Of stage fetch."""
        return cast(FetchPlan, self["fetch"])

    @property
    def quantize(self) -> QuantizePlan:
        """Of stage quantize."""
        return cast(QuantizePlan, self["quantize"])


@dataclass
class Context:
    """What a stage may see: the recipe, how to run it, and what is already done.

    `fetch`, `quantize`, `verify` and `publish` are the outputs of those stages; a KeyError says that the
    stage has not finished.

    Attributes:
        lease: on the recipe; None where nothing is written.
        pointed: what the pointer named when the run started.
        executed: the stages that this run has executed itself, so far; the others were up to date.
    """

    recipe: Recipe
    settings: Settings
    store: Store
    console: Console
    run: RunDirectory
    receipts: Receipts = field(default_factory=Receipts)
    plans: Plans = field(default_factory=Plans)
    lease: Lease | None = None
    pointed: str | None = None
    executed: set[StageName] = field(default_factory=set)

    def require_lease(self) -> None:
        """Make sure that no other run has taken this one's lease, before a change becomes visible.

        Raises:
            RetryableError: another run has.
        """
        if self.lease is not None:
            self.lease.require()

    @property
    def fetch(self) -> FetchOutput:
        """The snapshot."""
        return self.receipts.fetch.outputs

    @property
    def quantize(self) -> QuantizeOutput:
        """The checkpoint in staging."""
        return self.receipts.quantize.outputs

    @property
    def verify(self) -> VerifyOutput:
        """The sealed generation."""
        return self.receipts.verify.outputs

    @property
    def publish(self) -> PublishOutput:
        """What the pointer names."""
        return self.receipts.publish.outputs


@dataclass(frozen=True)
class StageResult(Generic[OutputT, FiguresT]):
    """The result of a stage's run; the pipeline turns it into a receipt."""

    outputs: OutputT
    figures: FiguresT
    summary: str = ""


class Stage(Protocol[OutputT, FiguresT]):
    """One step of the pipeline."""

    @property
    def name(self) -> StageName:
        """The stage's name, as in `--from` and in receipts."""
        ...

    def key(self, context: Context) -> str:
        """Digest of everything that determines the result; needs the receipts of the earlier stages."""
        ...

    def plan(self, context: Context) -> StagePlan:
        """What a run would do and cost, given the earlier stages' plans; writes nothing."""
        ...

    def preflight(self, context: Context) -> None:
        """Check, before any stage runs, whether this host has what the stage needs.

        Raises:
            PreflightError: it does not.
        """
        ...

    def run(self, context: Context) -> StageResult[OutputT, FiguresT]:
        """Do the work. Killed at any instant, it can be run again."""
        ...

    def still_there(self, context: Context, receipt: Receipt[OutputT, FiguresT]) -> bool:
        """Whether the receipt's outputs exist; a cheap check that reads no file's content."""
        ...


AnyStage = Stage[Any, Any]

__all__ = [
    "STAGE_NAMES",
    "AnyStage",
    "Context",
    "FetchPlan",
    "Plans",
    "QuantizePlan",
    "Receipt",
    "Receipts",
    "RunDirectory",
    "Stage",
    "StageName",
    "StagePlan",
    "StageResult",
    "VerifyPlan",
    "digest_of",
]
