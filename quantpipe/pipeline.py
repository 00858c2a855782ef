"""The stages and their order: what is up to date, what has to run, how a run continues.

One rule decides everything: a receipt whose key is the stage's current key, and whose outputs still
exist, marks the stage as up to date. Receipts come from the run itself, from an earlier run that was not
completed, and from the run that published the current generation.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from quantpipe.console import Console
from quantpipe.errors import PreflightError, QuantpipeError, StorageFullError, UsageError
from quantpipe.fetch.stage import FetchStage
from quantpipe.host.peak import PeakMemory
from quantpipe.publish.stage import PublishStage, conclude
from quantpipe.quantize import gates
from quantpipe.quantize.stage import QuantizeStage
from quantpipe.recipe.model import Recipe
from quantpipe.settings import Settings
from quantpipe.smoke.stage import SmokeStage
from quantpipe.stage import STAGE_NAMES, AnyStage, Context, Receipt, RunDirectory, StageName, StagePlan
from quantpipe.store import runs
from quantpipe.store.faults import storage_faults
from quantpipe.store.lease import Lease
from quantpipe.store.outputs import Cost
from quantpipe.store.receipt import AnyReceipt, Receipts
from quantpipe.store.space import Space
from quantpipe.store.store import SPARE_BYTES, Store
from quantpipe.store.trial import check_publish
from quantpipe.text import human_bytes, human_seconds, now
from quantpipe.verify.stage import VerifyStage

if TYPE_CHECKING:
    from quantpipe.verify.report import Report


@dataclass(frozen=True)
class Selection:
    """Which stages a run goes through.

    Attributes:
        first: start here; all earlier stages have to be up to date.
        last: end here.
        force: run this stage and all later ones, even where receipts mark them as up to date.
        deep: hash the snapshot again instead of trusting the size, mtime and inode of its files.
    """

    first: StageName | None = None
    last: StageName | None = None
    force: StageName | None = None
    deep: bool = False

    def stages(self) -> tuple[AnyStage, ...]:
        """Fresh stages for one run, up to the last one."""
        stages: tuple[AnyStage, ...] = (
            FetchStage(deep=self.deep),
            QuantizeStage(forced=self.force in ("fetch", "quantize")),
            VerifyStage(_card),
            SmokeStage(),
            PublishStage(forced=self.force in ("smoke", "publish")),
        )
        return stages[: STAGE_NAMES.index(self.last) + 1] if self.last else stages

    def forced(self, stage: AnyStage) -> bool:
        """Whether receipts do not count for this stage."""
        if self.deep and stage.name == "fetch":
            return True
        return self.force is not None and STAGE_NAMES.index(stage.name) >= STAGE_NAMES.index(self.force)


_ALL = Selection()

RunStatus = Literal["published", "up to date", "stopped", "held"]


@dataclass(frozen=True)
class RunResult:
    """The result of a successful run.

    Attributes:
        status: "published", "up to date", "stopped" after an `--until` stage, or "held": the result exists,
            but somebody has rolled back from it.
        receipts: by stage.
        run: the run's directory; None where nothing had to run.
    """

    status: RunStatus
    receipts: Receipts
    run: RunDirectory | None


class Plan(NamedTuple):
    """What a run would do, and the preflight checks that fail.

    Attributes:
        stages: a plan per stage, with bytes of disk and memory.
        obstacles: the errors that a run would fail with on this host; empty if it can start.
    """

    stages: list[StagePlan]
    obstacles: list[QuantpipeError]


def plan(recipe: Recipe, settings: Settings | None = None, console: Console | None = None) -> Plan:
    """What a run would do and cost, and all preflight checks that fail; writes nothing.

    Args:
        settings: how to run; None takes the environment and the defaults.
        console: where warnings go; nowhere without one.

    Raises:
        QuantpipeError: of the stages' plans: a source that cannot be reached, say.
    """
    settings, console = settings or Settings(), console or Console("quiet")
    store = Store.at(settings.store)
    context = _context(recipe, settings, store, console)
    stages = Selection().stages()
    begun = runs.unfinished(store, recipe.name)
    earlier = [begun.receipts()] if begun is not None else []
    _reuse(context, Selection(), stages, [*store.published_receipts(recipe.name), *earlier])
    plans = _plans(context, stages)
    return Plan(plans, _obstacles(context, stages, plans))


def run(
    recipe: Recipe,
    settings: Settings | None = None,
    console: Console | None = None,
    selection: Selection = _ALL,
) -> RunResult:
    """Run the pipeline for a recipe up to a published checkpoint; resumes where earlier runs stopped.

    Args:
        settings: how to run; None takes the environment and the defaults.
        console: where lines, bars and events go; nowhere without one. The run's own log is kept in any case.
        selection: which stages.

    Raises:
        QuantpipeError: a stage failed; finished work is kept and used by the next run.
    """
    settings, console = settings or Settings(), console or Console("quiet")
    store = Store.at(settings.store)
    stages = selection.stages()
    published = list(store.published_receipts(recipe.name))
    context = _context(recipe, settings, store, console)
    _reuse(context, selection, stages, published)
    if len(context.receipts) == len(stages):
        if "quantize" in context.receipts:
            gates.warn(context)
        return RunResult(_settled(context), context.receipts, None)
    with storage_faults(store.root), _leased(context) as context.lease:
        context.pointed = store.pointer(recipe.name).named()
        context.run, earlier = runs.begin(store, recipe)
        console.record_to(context.run.events)
        with runs.recorded(context.run, console), storage_faults(store.root):
            _execute(context, selection, stages, [earlier, *published])
            status = _ended(context)
            if status == "published":
                conclude(context)
        context.run.update_state(status=status, ended=now())
        if status != "stopped":  # the checkpoint is sealed, and no run continues one that got to its end
            shutil.rmtree(context.run.staging, ignore_errors=True)
        if status == "published":
            _report(context)
        return RunResult(status, context.receipts, context.run)


def _leased(context: Context) -> Lease:
    """The lease on the recipe, not yet taken, in a store that exists."""
    context.store.create()
    return Lease.for_recipe(context.store.root, context.recipe.name)


def _card(context: Context, checkpoint: Path, report: Report) -> str:
    """The model card that is sealed with a checkpoint."""
    from quantpipe.report.card import card

    return card(context, checkpoint, report)


def _report(context: Context) -> None:
    """Keep a report with the generation. It is published: nothing that fails here is an error of the run."""
    try:
        from quantpipe.report.gather import report_of
        from quantpipe.report.write import keep_report

        digest = context.publish.digest
        page = keep_report(
            context.store, report_of(context.store, context.recipe.name, digest, context.recipe)
        )
    except Exception as error:
        context.console.warning(
            f"published, but there is no report: {type(error).__name__}: {error}; "
            f"`quantpipe report {context.recipe.name}` makes it again"
        )
        return
    context.console.line(f"report    {page}")


def _ended(context: Context) -> RunStatus:
    """The status of a run whose stages all succeeded."""
    if "publish" not in context.receipts:
        return "stopped"
    return "published" if _settled(context) == "up to date" else "held"


def _settled(context: Context) -> Literal["up to date", "held"]:
    """The status when all stages are up to date."""
    if "publish" not in context.receipts:
        return "up to date"
    current = context.store.current(context.recipe.name)
    return "up to date" if current is not None and current.name == context.publish.digest else "held"


def _context(recipe: Recipe, settings: Settings, store: Store, console: Console) -> Context:
    """A read-only context: its run directory does not exist."""
    nowhere = RunDirectory(store.root / "runs" / recipe.name / "none")
    return Context(recipe=recipe, settings=settings, store=store, console=console, run=nowhere)


# -- which receipts are valid ---------------------------------------------------------------------


def _reuse(
    context: Context, selection: Selection, stages: Sequence[AnyStage], sources: Sequence[Receipts]
) -> None:
    """Fill `context.receipts` from the first stage on, as long as stages are up to date."""
    context.receipts.clear()
    for stage in stages:
        receipt = None if selection.forced(stage) else _standing(stage, context, sources)
        if receipt is None:
            return
        context.receipts[stage.name] = receipt


def _standing(stage: AnyStage, context: Context, sources: Sequence[Receipts]) -> AnyReceipt | None:
    candidates = [source[stage.name] for source in sources if stage.name in source]
    if not candidates:
        return None
    key = stage.key(context)
    return next((r for r in candidates if r.key == key and stage.still_there(context, r)), None)


# -- planning and executing -----------------------------------------------------------------------


def _plans(context: Context, stages: Sequence[AnyStage]) -> list[StagePlan]:
    plans = []
    for stage in stages:
        planned = stage.plan(context)
        if stage.name in context.receipts:
            planned = replace(planned, action="reuse", disk_bytes=0, memory_bytes=0)
        else:
            planned = replace(planned, action="run")
        context.plans[stage.name] = planned
        plans.append(planned)
    return plans


def _obstacles(
    context: Context, stages: Sequence[AnyStage], plans: Sequence[StagePlan]
) -> list[QuantpipeError]:
    """All failed preflight checks of the stages that have to run."""
    pending = [stage for stage, planned in zip(stages, plans, strict=True) if planned.action == "run"]
    found: list[QuantpipeError] = []
    for stage in pending:
        try:
            stage.preflight(context)
        except QuantpipeError as error:
            found.append(error)
    needed = sum(planned.disk_bytes for planned in plans) + (SPARE_BYTES if pending else 0)
    free = Space.below(context.store.root).free
    if needed > free:
        found.append(
            StorageFullError(
                f"the run adds about {human_bytes(needed)}, but only {human_bytes(free)} are free",
                where=str(context.store.root),
                hint="free space (`quantpipe prune` lists what can be removed), or choose another store "
                "with --store",
            )
        )
    return found


def _tried(context: Context) -> list[PreflightError]:
    """What the store's filesystem lacks for a publish, tried between the run's folder and the generations."""
    context.store.create_model(context.recipe.name)
    try:
        check_publish(context.run.path, context.store.model(context.recipe.name))
    except PreflightError as error:
        return [error]
    return []


def _execute(
    context: Context, selection: Selection, stages: Sequence[AnyStage], sources: Sequence[Receipts]
) -> None:
    _reuse(context, selection, stages, sources)
    _require_begun(selection, context)
    plans = _plans(context, stages)
    if obstacles := [*_tried(context), *_obstacles(context, stages, plans)]:
        raise _combined(obstacles)
    for planned in plans:
        for note in planned.notes if planned.action == "run" else ():
            context.console.warning(note)
    for stage in stages:
        receipt = None if selection.forced(stage) else _standing(stage, context, sources)
        if receipt is None:
            receipt = _run_stage(stage, context)
        else:
            context.console.line(f"{stage.name:<9} up to date")
        context.run.save(receipt)
        context.receipts[stage.name] = receipt
        if stage.name == "quantize":
            gates.require(context)


def _require_begun(selection: Selection, context: Context) -> None:
    if selection.first is None:
        return
    before = STAGE_NAMES[: STAGE_NAMES.index(selection.first)]
    missing = [name for name in before if name not in context.receipts]
    if missing:
        raise UsageError(
            f"--from {selection.first} needs earlier stages that are not up to date: {', '.join(missing)}",
            hint=f"run without --from, or with --from {missing[0]}",
        )


def _combined(obstacles: Sequence[QuantpipeError]) -> QuantpipeError:
    """One error for all obstacles: a user who has to fix three things should see all three."""
    if len(obstacles) == 1:
        return obstacles[0]
    lines = [f"{error} -> {error.hint}" if error.hint else str(error) for error in obstacles]
    return PreflightError(
        f"{len(obstacles)} preflight checks failed", hint="fix them all, then run again", details=lines
    )


def _run_stage(stage: AnyStage, context: Context) -> AnyReceipt:
    key = stage.key(context)
    context.console.event("stage", stage=stage.name, status="started")
    planned = context.plans[stage.name]
    context.console.detail(f"{stage.name:<9} {planned.summary}")
    started, began = now(), time.monotonic()
    with PeakMemory() as peak:
        result = stage.run(context)
    context.executed.add(stage.name)
    seconds = round(time.monotonic() - began, 3)
    cost = Cost(peak.bytes, planned.memory_bytes, getattr(planned, "seconds", None))
    receipt = Receipt(stage.name, key, result.outputs, result.figures, started, seconds, result.summary, cost)
    context.console.line(
        f"{stage.name:<9} {result.summary}, {human_seconds(seconds)}", stage=stage.name, seconds=seconds
    )
    context.console.event("stage", stage=stage.name, status="finished", figures=receipt.figures.to_json())
    return receipt
