"""Stage smoke: load the sealed checkpoint in a real server and ask it.

What only a smoke load needs is imported there: a no-op refresh needs the key alone, and stays quick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from quantpipe.digest import digest_of
from quantpipe.stage import Context, RunDirectory, StageName, StagePlan, StageResult
from quantpipe.store.outputs import SmokeFigures, SmokeOutput
from quantpipe.store.receipt import SmokeReceipt

if TYPE_CHECKING:
    from quantpipe.console import Console
    from quantpipe.smoke.launchers import Launcher
    from quantpipe.smoke.model import ModelFigures


class SmokeStage:
    """The last gate: only a checkpoint that answered correctly is published."""

    name: StageName = "smoke"

    def key(self, context: Context) -> str:
        """From the smoke section and the checkpoint's digest."""
        return digest_of([self.name, context.recipe.stage_inputs()["smoke"], context.verify.digest])

    def plan(self, context: Context) -> StagePlan:
        """What would be started, and how many probes."""
        smoke = context.recipe.smoke
        known = sum(probe.continuation is not None for probe in smoke.probes)
        return StagePlan(
            self.name,
            "run",
            f"launcher {smoke.launcher}, {len(smoke.probes)} probes, {known} with a known continuation",
        )

    def preflight(self, context: Context) -> None:
        """Profile, serving environment, port and device, before hours of work.

        Raises:
            RecipeError: the profile breaks a rule.
            PreflightError: this host lacks something.
        """
        from quantpipe.smoke.rules import require_rules
        from quantpipe.smoke.scratch import temporary_folder

        smoke = context.recipe.smoke
        require_rules(smoke, _planned_model(context))
        launcher = _launcher(context)
        reap(launcher, of_runs(context.run), context.console)
        launcher.preflight()
        if launcher.ours:
            temporary_folder()

    def run(self, context: Context) -> StageResult[SmokeOutput, SmokeFigures]:
        """Start, ask, stop."""
        from quantpipe.smoke.load import smoke_load
        from quantpipe.smoke.model import read_model
        from quantpipe.smoke.reference import FILENAME, load_reference
        from quantpipe.smoke.rules import require_rules

        smoke, launcher = context.recipe.smoke, _launcher(context)
        checkpoint = context.store.absolute(context.verify.checkpoint)
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
        return StageResult(SmokeOutput(), figures, _summary(figures))

    def still_there(self, context: Context, receipt: SmokeReceipt) -> bool:
        """A smoke load leaves nothing but its receipt."""
        del context, receipt
        return True


def _launcher(context: Context) -> Launcher:
    from quantpipe.smoke.launchers import launcher_for

    return launcher_for(context.recipe.smoke, context.settings, context.store.root)


def _planned_model(context: Context) -> ModelFigures | None:
    """The model's figures, from the plans: its config.json at the source and the size it will have."""
    from quantpipe.smoke.model import ModelFigures

    plans = context.plans
    config = plans.fetch.config if "fetch" in plans else None
    size = plans.quantize.checkpoint_bytes if "quantize" in plans else 0
    return ModelFigures.of(config, size) if config is not None else None


def of_runs(run: RunDirectory) -> Callable[[str], bool]:
    """Whether a run id is that of this run, or of one that it continues."""
    ids = {each.id for each in run.lineage()}
    return lambda run_id: run_id in ids


def reap(launcher: Launcher, wanted: Callable[[str], bool], console: Console) -> None:
    """End and remove leftovers of earlier attempts, with a warning."""
    from quantpipe.smoke.scratch import sweep

    if ended := launcher.reap(wanted):
        console.warning(f"ended leftovers of a killed run: {', '.join(ended)}")
    if folders := sweep(wanted):
        console.warning(f"removed leftovers of a killed run: {', '.join(map(str, folders))}")


def _summary(figures: SmokeFigures) -> str:
    text = f"{len(figures.probes)} probes answered, {figures.matched} of {figures.known} as expected"
    if figures.bench:
        text += f", {figures.bench['output_throughput']:.0f} tokens/s"
    if figures.unverified:
        text += ", by a server that does not report which directory it serves"
    return text
