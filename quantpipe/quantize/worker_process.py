"""Start the quantize worker, follow its events, and explain how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantpipe.console import Console, Progress
from quantpipe.errors import (
    InterruptedRunError,
    RetryableError,
)
from quantpipe.host import cgroups, child, supervisor
from quantpipe.host.environment import for_child
from quantpipe.quantize import worker_failures
from quantpipe.quantize.worker.protocol import Job
from quantpipe.text import human_seconds

WORKER = Path(__file__).parent / "worker" / "__main__.py"
_POLL_SECONDS = 1.0
_PHASES = {
    "import": "importing msmodelslim",
    "load": "loading the BF16 model",
    "check": "hashing the units that an earlier run has finished",
    "quantize": "quantizing",
}


@dataclass
class WorkerReport:
    """What the worker reported.

    Attributes:
        versions: package versions of its interpreter.
        threads: torch's number of threads, which can change the last bits on a CPU.
        layers: decoder layers of the model.
        seconds: the worker's own wall time.
        failure: the `failed` event; None without one.
        finished: the `finished` event came.
        resumed: units (embedding, layers, head) that an earlier run had finished.
        stopped: where the worker stopped on SIGTERM; empty where it did not.
    """

    versions: dict[str, str] = field(default_factory=dict)
    threads: int = 0
    layers: int = 0
    seconds: float = 0.0
    failure: dict[str, str] | None = None
    finished: bool = False
    resumed: int = 0
    stopped: str = ""


def run(
    job: Job,
    *,
    python: Path,
    folder: Path,
    log: Path,
    run_id: str,
    stall_seconds: float,
    console: Console,
    threads: int | None = None,
    passed: Sequence[str] = (),
    grace: float = child.GRACE_SECONDS,
) -> WorkerReport:
    """Run a job in the interpreter `python` and wait for its end.

    Args:
        folder: of the job file, and of the worker's working directory, which is removed afterwards.
        log: receives the output of the worker and msmodelslim.
        stall_seconds: after so long without an event, CPU time or I/O the worker counts as hung.
        threads: CPU threads of torch; None leaves the choice to it.
        passed: variables of the caller that it gets beyond those of `for_child`.
        grace: seconds that it gets to finish the layer in progress when quantpipe is asked to stop (SIGTERM).

    Raises:
        QuantizeError: msmodelslim failed; the message is its own.
        PreflightError: memory, storage, device or environment is insufficient.
        RetryableError: it hung, was killed from outside, or stopped where a later run continues.
    """
    job_file, directory = folder / "job.json", folder / "workdir"
    job.write(job_file)
    directory.mkdir(exist_ok=True)
    kills = cgroups.out_of_memory_kills()
    reading, writing = os.pipe()
    command = [str(python), str(WORKER), str(job_file), str(writing)]
    environment = _environment(run_id, threads, passed)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        try:
            worker = child.Child(
                command, environment=environment, log=log, pass_fds=[writing], folder=directory, grace=grace
            )
        finally:
            os.close(writing)
        with worker:
            try:
                report = _follow(pipe.fileno(), worker, console, stall_seconds, log)
                status = worker.wait()
            except (KeyboardInterrupt, InterruptedRunError):
                _kill(worker)  # Ctrl-C does not wait for the layer in progress
                raise
    shutil.rmtree(directory, ignore_errors=True)
    if report.failure is not None:
        raise worker_failures.failed(report.failure, log)
    if report.stopped:
        raise RetryableError(
            f"the quantize worker {report.stopped}",
            where=str(log),
            hint="the same command continues from here",
        )
    if not report.finished or status != 0:
        raise worker_failures.died(status, cgroups.out_of_memory_kills() > kills, log)
    return report


def _kill(worker: child.Child) -> None:
    """SIGKILL at once; resource trackers are left to the supervisor: they remove shared memory at the end."""
    processes = supervisor.descendants(worker.pid)
    supervisor.send(signal.SIGKILL, [process for process in processes if not supervisor.is_tracker(process)])


def _environment(
    run_id: str, threads: int | None, passed: Sequence[str], base: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What the worker needs of the user's environment: no token of a hub, no proxy."""
    environment = for_child(passed, base)
    # The snapshot is complete and local: no hub is needed any more.
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    # Exactly so many: with fewer threads on a busy host a library would sum in another order.
    fixed = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    fixed |= {"OMP_DYNAMIC": "FALSE", "MKL_DYNAMIC": "FALSE"} if threads is not None else {}
    return {**environment, **offline, **fixed, "QUANTPIPE_RUN_ID": run_id}


def _follow(
    descriptor: int, process: child.Child, console: Console, stall_seconds: float, log: Path
) -> WorkerReport:
    report = WorkerReport()
    with contextlib.ExitStack() as stack:
        bar: LayerBar | None = None
        for event in _events(descriptor, process, stall_seconds, log):
            console.event("worker", worker=event)
            if event["event"] == "layer":
                if bar is None:
                    left = event["of"] - event["index"] + 1  # without what an earlier run has done
                    bar = LayerBar(stack.enter_context(console.progress("quantize", left, unit="layer")))
                bar.layer(event)
            elif event["event"] == "step" and bar is not None:
                bar.step(event)
            elif event["event"] == "phase":
                console.detail(f"worker: {_PHASES.get(event['name'], event['name'])}")
            elif event["event"] == "discarded":
                console.warning(_discarded(event))
            elif event["event"] == "damaged":
                console.warning(_damaged(event))
            elif event["event"] == "unmeasured":
                console.warning(_unmeasured(event))
            _note(event, report)
    return report


class LayerBar:
    """A bar of the layers, which says what happens within the layer in progress.

    Args:
        bar: of the layers that are left.
    """

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._begun = 0
        self._layer = self._left = ""

    def layer(self, event: Mapping[str, Any]) -> None:
        """A layer begins, so that the one before it is done."""
        if self._begun:
            self._bar.advance()
        self._begun += 1
        self._layer = f"quantize layer {event['index']} of {event['of']}"
        self._left = f", {human_seconds(event['eta'])} left" if "eta" in event else ""
        self._bar.describe(f"{self._layer}{self._left}")

    def step(self, event: Mapping[str, Any]) -> None:
        """A step of the layer begins, or goes on."""
        done = f" {event['done']}/{event['of']}" if event["of"] else ""
        self._bar.describe(f"{self._layer}: {event['name']}{done}{self._left}")


def _events(
    descriptor: int, process: child.Child, stall_seconds: float, log: Path
) -> Iterator[dict[str, Any]]:
    """The worker's events until it closes the pipe; raises where it hangs."""
    pending = b""
    moved, activity = time.monotonic(), 0
    while True:
        ready, _, _ = select.select([descriptor], [], [], _POLL_SECONDS)
        if ready:
            data = os.read(descriptor, 1 << 16)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            moved = time.monotonic()
            yield from (json.loads(line) for line in lines)
        elif (active := process.activity()) != activity:
            moved, activity = time.monotonic(), active
        elif time.monotonic() - moved > stall_seconds:
            raise worker_failures.hung(stall_seconds, log)


def _note(event: dict[str, Any], report: WorkerReport) -> None:
    kind = event["event"]
    if kind == "started":
        report.versions, report.threads = event["versions"], event["threads"]
    elif kind == "layer":
        report.layers = event["of"]
    elif kind == "resumed":
        report.resumed = event["units"]
    elif kind == "stopped":
        report.stopped = event["message"]
    elif kind == "failed":
        report.failure = event
    elif kind == "finished":
        report.finished, report.seconds = True, event["seconds"]


def _damaged(event: dict[str, Any]) -> str:
    """Which finished units have rotted, and what that costs."""
    units, first = event["units"], event["first"]
    named = ", ".join(map(str, units))
    again = units[-1] + 1 - first
    return (
        f"shards of unit {named} changed on the storage since they were written: "
        f"{again} units are quantized again, from unit {first} on"
    )


def _unmeasured(event: dict[str, Any]) -> str:
    """Continued work has no figures where it began without them."""
    return (
        f"the quality is not measured: {event['units']} units were finished without it, or with another "
        "quality.dataset; `--force quantize` starts over and measures"
    )


def _discarded(event: dict[str, Any]) -> str:
    """That unfinished work is discarded, and why: continued, it would be mixed with work of another kind."""
    why = "; ".join(event["differences"]) or "its files are damaged"
    return f"quantizing starts over, {event['units']} finished units are discarded: {why}"
