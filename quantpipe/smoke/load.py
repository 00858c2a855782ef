"""One smoke load: start a server on a checkpoint, ask it everything, end it."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic
from typing import Any

from quantpipe.checkpoint.chat_template import has_chat_template
from quantpipe.console import Console
from quantpipe.recipe.model import Smoke
from quantpipe.smoke import checks
from quantpipe.smoke.bench import measure
from quantpipe.smoke.checks import Check
from quantpipe.smoke.client import Client
from quantpipe.smoke.effective import effective_quantization
from quantpipe.smoke.launchers import Launcher
from quantpipe.smoke.probes import Answer, ask, require_matches, require_model
from quantpipe.smoke.reference import compare

_API_KEY = "VLLM_API_KEY"


def smoke_load(
    checkpoint: Path,
    smoke: Smoke,
    launcher: Launcher,
    *,
    log: Path,
    run_id: str,
    console: Console,
    strict: bool = True,
    reference: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Start a server on a checkpoint, ask the probes, end it.

    Args:
        strict: a text that cannot be right fails; else (the probes belong to another model) it is noted.
        reference: reference answers, see reference.py.

    Returns:
        Figures: command, seconds until ready, the quantization in effect, every probe and every check with
        its request, answer and time, and the benchmark's numbers.

    Raises:
        SmokeError: it did not load, or did not answer rightly.
        PreflightError: this host cannot serve.
    """
    began = monotonic()
    with launcher.serving(checkpoint, log, run_id, console) as server:
        ready = round(monotonic() - began, 3)
        api_key = smoke.serve.environment.get(_API_KEY) or os.environ.get(_API_KEY)
        client = Client(server.url, smoke.timeouts.probe, api_key)
        name = smoke.serve.served_model_name
        model = require_model(client, name, checkpoint, ours=launcher.ours)
        effective = effective_quantization(server, client)
        if effective is None:
            console.warning(
                "which quantization is in effect cannot be seen: the server's log is not here; "
                "started with VLLM_SERVER_DEV_MODE=1 it would tell"
            )
        if not strict and not has_chat_template(checkpoint):
            smoke = smoke.model_copy(update={"probes": tuple(p for p in smoke.probes if not p.chat)})
        answers = _probes(client, smoke, console, strict=strict)
        require_matches(answers, smoke.min_matches if strict else 0)
        made = _checks(client, checkpoint, smoke, console, reference or [])
        bench = None
        if smoke.bench is not None:
            bench = measure(
                smoke.bench,
                launcher,
                url=server.url,
                model=name,
                checkpoint=checkpoint,
                log=log.with_name("bench.log"),
                run_id=run_id,
                api_key=api_key,
                console=console,
            )
            console.line(f"bench     {bench['output_throughput']:.1f} output tokens per second")
    return {
        "launcher": smoke.launcher,
        "command": list(server.command),
        "model": model,
        "ready_seconds": ready,
        "effective_quantization": effective,
        "probes": [answer.to_json() for answer in answers],
        "matched": sum(answer.matches is True for answer in answers),
        "known": sum(answer.matches is not None for answer in answers),
        "checks": [check.to_json() for check in made],
        "bench": bench,
    }


def _probes(client: Client, smoke: Smoke, console: Console, *, strict: bool) -> list[Answer]:
    answers = []
    with console.progress("ask", len(smoke.probes), unit="probe") as bar:
        for probe in smoke.probes:
            answer = ask(client, smoke.serve.served_model_name, probe, strict=strict)
            console.event("probe", **answer.to_json())
            answers.append(answer)
            bar.advance()
    return answers


def _checks(
    client: Client, checkpoint: Path, smoke: Smoke, console: Console, reference: list[dict[str, Any]]
) -> list[Check]:
    """What any server has to do; each is told as it holds."""
    name = smoke.serve.served_model_name
    text, chat = checks.samples(smoke.probes)
    made = []

    def keep(check: Check) -> None:
        console.event("check", **check.to_json())
        made.append(check)

    with console.progress("check", None):
        keep(checks.repeats(client, name, text, "completion"))
        if has_chat_template(checkpoint):
            keep(checks.repeats(client, name, chat, "chat"))
        else:
            keep(Check("chat", skipped="the tokenizer has no chat template"))
        keep(checks.batch(client, name, smoke.probes or (text,), smoke.concurrency))
        keep(checks.finite(client, name, text))
        if reference:
            keep(compare(client, name, reference, smoke.max_logprob_drift))
    return made
