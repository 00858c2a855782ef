"""One smoke load: start a server on a checkpoint, ask it everything, end it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from quantpipe.checkpoint.chat_template import has_chat_template
from quantpipe.console import Console
from quantpipe.recipe.smoke import Smoke
from quantpipe.smoke import conformance
from quantpipe.smoke.bench import measure
from quantpipe.smoke.client import Client
from quantpipe.smoke.conformance import Exchange
from quantpipe.smoke.effective import effective_quantization
from quantpipe.smoke.launchers import Launcher
from quantpipe.smoke.probes import Reply, ask, require_matches
from quantpipe.smoke.reference import compare
from quantpipe.smoke.server import Server
from quantpipe.smoke.session import Session
from quantpipe.store.outputs import SmokeFigures


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
) -> SmokeFigures:
    """Start a server on a checkpoint, ask the probes, end it.

    Args:
        strict: a text that cannot be right fails; else (the probes belong to another model) it is noted.
        reference: reference answers, see reference.py.

    Raises:
        SmokeError: it did not load, or did not answer correctly.
        PreflightError: this host cannot serve.
    """
    began = monotonic()
    with launcher.serving(checkpoint, log, run_id, console) as server:
        ready = round(monotonic() - began, 3)
        session = _session(server, smoke)
        model = session.require_checkpoint(checkpoint, ours=launcher.ours, unverified=smoke.unverified)
        unverified = model.get("root") is None
        if unverified:
            console.warning(
                "the server does not report which directory it serves; smoke.unverified accepts its answers"
            )
        effective = _effective(server, session, console)
        chat = has_chat_template(checkpoint)
        if not strict and not chat:
            smoke = smoke.model_copy(update={"probes": tuple(p for p in smoke.probes if not p.chat)})
        replies = _ask(session, smoke, console, strict=strict)
        require_matches(replies, smoke.min_matches if strict else 0)
        exchanges = _conformance(session, smoke, console, reference or [], chat=chat)
        bench = None
        if smoke.bench is not None:
            bench = measure(
                smoke.bench,
                launcher,
                session,
                checkpoint=checkpoint,
                log=log.with_name("bench.log"),
                run_id=run_id,
                console=console,
            )
            console.line(f"bench     {bench['output_throughput']:.1f} output tokens per second")
    return SmokeFigures(
        launcher=smoke.launcher,
        command=tuple(server.command),
        model=model,
        ready_seconds=ready,
        effective_quantization=effective,
        probes=tuple(reply.to_json() for reply in replies),
        matched=sum(reply.matches is True for reply in replies),
        known=sum(reply.matches is not None for reply in replies),
        checks=tuple(exchange.to_json() for exchange in exchanges),
        bench=bench,
        unverified=unverified,
    )


def _session(server: Server, smoke: Smoke) -> Session:
    client = Client(server.url, smoke.timeouts.probe, server.api_key)
    return Session(client, smoke.serve.served_model_name)


def _effective(server: Server, session: Session, console: Console) -> str | None:
    effective = effective_quantization(server, session.client)
    if effective is None:
        console.warning(
            "the quantization in effect is unknown: the server's log is not on this host; "
            "a server started with VLLM_SERVER_DEV_MODE=1 reports it"
        )
    return effective


def _ask(session: Session, smoke: Smoke, console: Console, *, strict: bool) -> list[Reply]:
    replies = []
    with console.progress("ask", len(smoke.probes), unit="probe") as bar:
        for probe in smoke.probes:
            reply = ask(session, probe, strict=strict)
            console.event("probe", **reply.to_json())
            replies.append(reply)
            bar.advance()
    return replies


def _conformance(
    session: Session, smoke: Smoke, console: Console, reference: Sequence[dict[str, Any]], *, chat: bool
) -> list[Exchange]:
    """What any server has to do; each exchange is an event as soon as it is over."""
    text_probe, chat_probe = conformance.samples(smoke.probes)
    exchanges = []

    def keep(exchange: Exchange) -> None:
        console.event("check", **exchange.to_json())
        exchanges.append(exchange)

    with console.progress("check", None):
        keep(conformance.repeats(session, text_probe, "completion"))
        if chat:
            keep(conformance.repeats(session, chat_probe, "chat"))
        else:
            keep(Exchange("chat", skipped="the tokenizer has no chat template"))
        keep(conformance.batch(session, smoke.probes or (text_probe,), smoke.concurrency))
        keep(conformance.finite(session, text_probe))
        if reference:
            keep(compare(session, reference, smoke.max_logprob_drift))
    return exchanges
