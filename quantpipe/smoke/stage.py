"""Stage smoke: load the sealed checkpoint in a real server and ask it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quantpipe.console import Console
from quantpipe.digest import digest_of
from quantpipe.smoke.launchers import Launcher, launcher_for
from quantpipe.smoke.load import smoke_load
from quantpipe.smoke.model import ModelFigures, read_model
from quantpipe.smoke.reference import FILENAME, load_reference
from quantpipe.smoke.rules import require_rules
from quantpipe.smoke.scratch import sweep
from quantpipe.stage import Context, Receipt, Result, RunDirectory, StagePlan


class SmokeStage:
    """The last gate: only what answered rightly is published."""

    name = "smoke"

    def key(self, context: Context) -> str:
        """From the smoke section and the checkpoint's digest."""
        return digest_of(
            [self.name, context.recipe.stage_inputs()["smoke"], context.output("verify", "digest")]
        )

    def plan(self, context: Context) -> StagePlan:
        """What would be started and asked."""
        smoke = context.recipe.smoke
        known = sum(probe.continuation is not None for probe in smoke.probes)
        return StagePlan(
            self.name,
            "run",
            f"launcher {smoke.launcher}, {len(smoke.probes)} probes, {known} with a known continuation",
        )

    def preflight(self, context: Context) -> None:
        """Profile, serving environment, port and device, before the hours of work in front of them.

        Raises:
            RecipeError: the profile breaks a rule.
            PreflightError: something is missing here.
        """
        smoke = context.recipe.smoke
        require_rules(smoke, _planned_model(context))
        launcher = _launcher(context)
        reap(launcher, of_runs(context.run), context.console)
        launcher.preflight()

    def run(self, context: Context) -> Result:
        """Start, ask, stop."""
        smoke, launcher = context.recipe.smoke, _launcher(context)
        checkpoint = context.store.absolute(context.output("verify", "checkpoint"))
        require_rules(smoke, read_model(checkpoint))
        reap(launcher, of_runs(context.run), context.console)
        figures = smoke_load(
            checkpoint,
            smoke,
            launcher,
            log=context.run.logs / "smoke.log",
            run_id=context.run.id,
            console=context.console,
            reference=load_reference(context.run.path / FILENAME),
        )
        return Result(outputs={}, figures=figures, summary=_summary(figures))

    def still_there(self, context: Context, receipt: Receipt) -> bool:
        """A smoke load leaves nothing but its receipt."""
        del context, receipt
        return True


def _launcher(context: Context) -> Launcher:
    return launcher_for(context.recipe.smoke, context.settings, context.store.root)


def _planned_model(context: Context) -> ModelFigures | None:
    """The model's figures, from the plans: its config.json at the source and the size it will have."""
    plans = context.plans
    config = plans["fetch"].figures.get("config") if "fetch" in plans else None
    size = plans["quantize"].figures.get("bytes", 0) if "quantize" in plans else 0
    return ModelFigures.of(config, int(size)) if isinstance(config, dict) else None


def of_runs(run: RunDirectory) -> Callable[[str], bool]:
    """Whether a run id is that of this run, or of one that it continues."""
    ids = set()
    current: RunDirectory | None = run
    while current is not None and current.id not in ids:
        ids.add(current.id)
        before = current.state().get("continues")
        current = RunDirectory(current.path.parent / before) if isinstance(before, str) else None
    return lambda run_id: run_id in ids


def reap(launcher: Launcher, wanted: Callable[[str], bool], console: Console) -> None:
    """End and remove what earlier attempts have left, and say so."""
    if left := launcher.reap(wanted):
        console.warning(f"ended what a killed run had left: {', '.join(left)}")
    if folders := sweep(wanted):
        console.warning(f"removed what a killed run had left: {', '.join(map(str, folders))}")


def _summary(figures: dict[str, Any]) -> str:
    text = f"{len(figures['probes'])} probes answered, {figures['matched']} of {figures['known']} as known"
    if figures["bench"]:
        text += f", {figures['bench']['output_throughput']:.0f} tokens/s"
    return text
