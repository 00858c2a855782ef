"""What every stage is: a key, a plan, a run that leaves a receipt.

A stage's key is a digest of all that decides its result: its section of the recipe and the outputs of
the stages before it. A receipt with the same key, whose outputs are still there, stands for the work:
that one rule gives resume, no-op refreshes and partial re-runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from quantpipe.digest import digest_of
from quantpipe.store.receipt import Receipt, RunDirectory

if TYPE_CHECKING:
    from quantpipe.console import Console
    from quantpipe.recipe.model import Recipe
    from quantpipe.settings import Settings
    from quantpipe.store.store import Store


@dataclass(frozen=True)
class StagePlan:
    """What a stage would do and what it would cost.

    Attributes:
        stage: the stage's name.
        action: "run", or "reuse" when a receipt stands for it.
        summary: one line for people.
        disk_bytes: bytes that the stage would add to the store.
        memory_bytes: host memory that it needs at its peak.
        figures: numbers that later plans build on.
        notes: things that the user has to know beforehand.
    """

    stage: str
    action: str
    summary: str
    disk_bytes: int = 0
    memory_bytes: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class Context:
    """What a stage may see: the recipe, how to run it, and what was done before."""

    recipe: Recipe
    settings: Settings
    store: Store
    console: Console
    run: RunDirectory
    receipts: dict[str, Receipt] = field(default_factory=dict)
    plans: dict[str, StagePlan] = field(default_factory=dict)

    def output(self, stage: str, name: str) -> Any:
        """An output of an earlier stage."""
        return self.receipts[stage].outputs[name]


@dataclass(frozen=True)
class Result:
    """What a stage's run gives back; the pipeline makes the receipt of it."""

    outputs: dict[str, Any]
    figures: dict[str, Any]
    summary: str = ""


class Stage(Protocol):
    """One step of the pipeline."""

    @property
    def name(self) -> str:
        """The stage's name, as in `--from` and in receipts."""
        ...

    def key(self, context: Context) -> str:
        """Digest of all that decides the result; needs the receipts of the stages before it."""
        ...

    def plan(self, context: Context) -> StagePlan:
        """What a run would do and cost, from the plans before it; writes nothing."""
        ...

    def preflight(self, context: Context) -> None:
        """Look, before any stage runs, whether this host has what the stage needs.

        Raises:
            PreflightError: it has not.
        """
        ...

    def run(self, context: Context) -> Result:
        """Do it. Killed at any instant, it may be run again."""
        ...

    def still_there(self, context: Context, receipt: Receipt) -> bool:
        """Whether the receipt's outputs exist; a cheap look that reads no file's content."""
        ...


__all__ = [
    "Context",
    "Receipt",
    "Result",
    "RunDirectory",
    "Stage",
    "StagePlan",
    "digest_of",
]
