"""Stage smoke: load the sealed checkpoint in a real server and ask it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpipe.canonical import digest_of
from quantpipe.console import Console
from quantpipe.host import require_interpreter, require_npu
from quantpipe.recipe import Smoke
from quantpipe.settings import Settings
from quantpipe.smoke.command import smoke_command
from quantpipe.smoke.probes import Answer, ask, require_matches, require_model
from quantpipe.smoke.server import choose_port, running
from quantpipe.stage import Context, Receipt, Result, StagePlan


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
        """Serving environment, port and device, before the hours of work in front of them.

        Raises:
            PreflightError: one of them is missing.
        """
        preflight(context.recipe.smoke, context.settings)

    def run(self, context: Context) -> Result:
        """Start, ask, stop."""
        checkpoint = context.store.absolute(context.output("verify", "checkpoint"))
        log = context.run.logs / "smoke.log"
        figures = smoke_load(
            checkpoint, context.recipe.smoke, context.settings, log, context.run.id, context.console
        )
        summary = (
            f"{len(figures['probes'])} probes answered, {figures['matched']} of {figures['known']} as known"
        )
        return Result(outputs={}, figures=figures, summary=summary)

    def still_there(self, context: Context, receipt: Receipt) -> bool:
        """A smoke load leaves nothing but its receipt."""
        del context, receipt
        return True


def preflight(smoke: Smoke, settings: Settings) -> None:
    """What a smoke load needs of this host.

    Raises:
        PreflightError: serving interpreter, device or port is missing.
    """
    packages = ("vllm", "quantpipe") if smoke.launcher == "cpu" else ("vllm", "vllm_ascend")
    require_interpreter(settings.serve_python, "QUANTPIPE_SERVE_PYTHON", packages)
    if smoke.launcher != "cpu":
        require_npu("smoke.launcher")
    choose_port(settings.port)


def smoke_load(
    checkpoint: Path, smoke: Smoke, settings: Settings, log: Path, run_id: str, console: Console
) -> dict[str, Any]:
    """Start a server on a checkpoint, ask the probes, end it.

    Returns:
        Figures: command, seconds until ready, every probe with its answer.

    Raises:
        SmokeError: it did not load, or did not answer rightly.
        PreflightError: this host cannot serve.
    """
    from time import monotonic

    port = choose_port(settings.port)
    command = smoke_command(smoke.launcher, settings.serve_python, checkpoint, smoke.serve, port)
    console.event("server", command=list(command.arguments), environment=command.environment)
    began = monotonic()
    with running(command, port=port, log=log, run_id=run_id, timeouts=smoke.timeouts, console=console) as url:
        ready = round(monotonic() - began, 3)
        answers = _ask_all(url, checkpoint, smoke, console)
    require_matches(answers, smoke.min_matches)
    return {
        "command": list(command.arguments),
        "ready_seconds": ready,
        "probes": [answer.to_json() for answer in answers],
        "matched": sum(answer.matches is True for answer in answers),
        "known": sum(answer.matches is not None for answer in answers),
    }


def _ask_all(url: str, checkpoint: Path, smoke: Smoke, console: Console) -> list[Answer]:
    name, timeout = smoke.serve.served_model_name, smoke.timeouts.probe
    require_model(url, name, checkpoint, timeout)
    answers = []
    with console.progress("ask", len(smoke.probes), unit="probe") as bar:
        for probe in smoke.probes:
            answer = ask(url, name, probe, timeout)
            console.event("probe", **answer.to_json())
            answers.append(answer)
            bar.advance()
    return answers
