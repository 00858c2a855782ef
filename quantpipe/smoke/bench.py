"""A speed figure: `vllm bench serve` against the server that is up, and the gate on its throughput."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from quantpipe.console import Console
from quantpipe.errors import SmokeError
from quantpipe.host.child import tail
from quantpipe.recipe.smoke import Bench
from quantpipe.smoke.launchers import Launcher
from quantpipe.smoke.scratch import Scratch, for_sockets
from quantpipe.smoke.server_command import ServerCommand
from quantpipe.smoke.session import Session


class _BenchFiguresAlways(TypedDict):
    output_throughput: float


class BenchFigures(_BenchFiguresAlways, total=False):
    """The benchmark's figures, as vLLM reports them; what this vLLM does not report is absent.

    Attributes:
        duration: seconds.
        completed: requests that were answered.
        failed: requests that were not.
        total_input_tokens: of all prompts.
        total_output_tokens: of all answers.
        request_throughput: requests per second.
        output_throughput: output tokens per second.
        total_token_throughput: tokens per second, prompts included.
        mean_ttft_ms: time to the first token, mean.
        p99_ttft_ms: time to the first token, 99th percentile.
        mean_tpot_ms: time per further token, mean.
        p99_tpot_ms: time per further token, 99th percentile.
        baseline: output tokens per second of the recipe's baseline, where it has one.
        factor: share of the baseline that is required, where there is one.
    """

    duration: float
    completed: int
    failed: int
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    total_token_throughput: float
    mean_ttft_ms: float
    p99_ttft_ms: float
    mean_tpot_ms: float
    p99_tpot_ms: float
    baseline: float
    factor: float


_KEPT = (
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    "mean_ttft_ms",
    "p99_ttft_ms",
    "mean_tpot_ms",
    "p99_tpot_ms",
)
"""The figures that are kept, of all that vLLM reports."""


def bench_arguments(bench: Bench, session: Session, checkpoint: Path) -> tuple[str, ...]:
    """The options of `vllm bench serve`: random prompts, no hub, exactly the requested numbers of tokens."""
    arguments = ["bench", "serve", "--backend", "vllm", "--base-url", session.client.url]
    arguments += ["--model", str(checkpoint), "--tokenizer", str(checkpoint)]
    arguments += ["--served-model-name", session.model]
    arguments += ["--dataset-name", "random", "--seed", "0", "--ignore-eos", "--disable-tqdm"]
    arguments += ["--num-prompts", str(bench.num_prompts)]
    arguments += ["--random-input-len", str(bench.input_len), "--random-output-len", str(bench.output_len)]
    if bench.concurrency is not None:
        arguments += ["--max-concurrency", str(bench.concurrency)]
    return tuple(arguments)


def measure(
    bench: Bench,
    launcher: Launcher,
    session: Session,
    *,
    checkpoint: Path,
    log: Path,
    run_id: str,
    console: Console,
) -> dict[str, Any]:
    """Run the benchmark and compare its throughput with the baseline.

    Args:
        log: receives the benchmark's output; its complete result is written next to it as `.json`.

    Returns:
        vLLM's figures (seconds, tokens per second, milliseconds), and the baseline where there is one.

    Raises:
        SmokeError: it failed, took too long, lost requests, or was too slow.
    """
    result = log.with_suffix(".json")
    result.unlink(missing_ok=True)
    command = launcher.bench_command(bench_arguments(bench, session, checkpoint), result, run_id)
    with for_sockets(run_id) as own, console.progress("bench", None):
        _run(_with_key(command, session.client.api_key), bench.timeout, log, run_id, own)
    return _gated(bench, _figures(result, log), log)


def _with_key(command: ServerCommand, api_key: str | None) -> ServerCommand:
    """With the API key in the variable that the benchmark reads."""
    key = {"OPENAI_API_KEY": api_key} if api_key else {}
    return replace(command, environment={**command.environment, **key})


def _run(command: ServerCommand, timeout: float, log: Path, run_id: str, own: Scratch) -> None:
    with own.child(command, run_id, log=log, folder=log.parent) as process:
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise SmokeError(
                f"the benchmark did not finish within {timeout:.0f} s",
                where=str(log),
                hint="raise smoke.bench.timeout, or lower smoke.bench.num_prompts, input_len or output_len",
                details=tail(log),
            ) from error
    if status:
        raise SmokeError(
            f"`vllm bench serve` ended with status {status}",
            where=str(log),
            hint="look at the log; its end is below",
            details=tail(log),
        )


def _figures(result: Path, log: Path) -> dict[str, Any]:
    try:
        value = json.loads(result.read_text("utf-8"))
        return {name: value[name] for name in _KEPT if name in value} | {
            "output_throughput": float(value["output_throughput"])
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SmokeError(
            f"the benchmark wrote no result: {error!r}",
            where=str(log),
            hint="look at the log; its end is below",
            details=tail(log),
        ) from error


def _gated(bench: Bench, figures: dict[str, Any], log: Path) -> dict[str, Any]:
    if figures.get("failed") or figures.get("completed", bench.num_prompts) < bench.num_prompts:
        raise SmokeError(
            f"only {figures.get('completed')} of {bench.num_prompts} requests of the benchmark were answered",
            where=str(log),
            hint="look at the server's log",
        )
    if bench.baseline is None:
        return figures
    least, found = bench.factor * bench.baseline, figures["output_throughput"]
    if found < least:
        raise SmokeError(
            f"{found:.1f} output tokens per second, {least:.1f} are required "
            f"({bench.factor:g} of the baseline {bench.baseline:g})",
            where="smoke.bench",
            hint="compare versions, profile and load of the host with those of the baseline",
        )
    return {**figures, "baseline": bench.baseline, "factor": bench.factor}
