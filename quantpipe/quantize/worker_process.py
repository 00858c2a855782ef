"""Start the quantize worker, follow its events, and explain how it ended."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantpipe.console import Console, Progress
from quantpipe.errors import (
    InterruptedRunError,
    PreflightError,
    QuantizeError,
    QuantpipeError,
    RetryableError,
)
from quantpipe.host import cgroups, child, supervisor
from quantpipe.host.machine import for_other_python
from quantpipe.quantize.worker.protocol import Job
from quantpipe.store.faults import storage_error

WORKER = Path(__file__).parent / "worker" / "__main__.py"
_POLL_SECONDS = 1.0
_PHASES = {"import": "importing msmodelslim", "load": "loading the BF16 model", "quantize": "quantizing"}


@dataclass
class Outcome:
    """What the worker told.

    Attributes:
        versions: package versions of its interpreter.
        threads: torch's number of threads, which can change the last bits on a CPU.
        layers: decoder layers of the model.
        seconds: the worker's own wall time.
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
    grace: float = child.GRACE_SECONDS,
) -> Outcome:
    """Run a job in the interpreter `python` and wait for its end.

    Args:
        folder: the job file goes here, and a scratch folder that the worker works in.
        log: receives all that the worker and msmodelslim print.
        stall_seconds: after so long without event, CPU time or I/O the worker counts as hung.
        threads: CPU threads of torch; None leaves the choice to it.
        grace: seconds that it gets to finish what it is at when quantpipe is asked to stop (SIGTERM).

    Raises:
        QuantizeError: msmodelslim failed; the message is its own.
        PreflightError: memory, disk, device or environment did not suffice.
        RetryableError: it hung, was killed from outside, or stopped where a later run continues.
    """
    job_file, scratch = folder / "job.json", folder / "scratch"
    job.save(job_file)
    scratch.mkdir(exist_ok=True)
    kills = cgroups.out_of_memory_kills()
    reading, writing = os.pipe()
    command = [str(python), str(WORKER), str(job_file), str(writing)]
    environment = _environment(run_id, threads)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        try:
            worker = child.Child(
                command, environment=environment, log=log, pass_fds=[writing], folder=scratch, grace=grace
            )
        finally:
            os.close(writing)
        with worker:
            try:
                outcome = _follow(pipe.fileno(), worker, console, stall_seconds, log)
                status = worker.wait()
            except (KeyboardInterrupt, InterruptedRunError):
                _kill(worker)  # whoever pressed Ctrl-C does not want to wait for the layer in work
                raise
    shutil.rmtree(scratch, ignore_errors=True)
    if outcome.failure is not None:
        raise _failed(outcome.failure, log)
    if outcome.stopped:
        raise RetryableError(
            f"the quantize worker {outcome.stopped}",
            where=str(log),
            hint="the same command continues from here",
        )
    if not outcome.finished or status != 0:
        raise _died(status, cgroups.out_of_memory_kills() > kills, log)
    return outcome


def _kill(worker: child.Child) -> None:
    for process in supervisor.descendants(worker.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _environment(
    run_id: str, threads: int | None = None, base: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The user's environment without what would lead the worker's interpreter astray."""
    environment = for_other_python(base)
    # The snapshot is complete and local: nothing has to be asked of a hub any more.
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    # Exactly so many: a library that takes fewer when the host is busy would sum in another order.
    fixed = {} if threads is None else {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    fixed |= {"OMP_DYNAMIC": "FALSE", "MKL_DYNAMIC": "FALSE"} if threads is not None else {}
    return {**environment, **offline, **fixed, "QUANTPIPE_RUN_ID": run_id}


def _follow(
    descriptor: int, process: child.Child, console: Console, stall_seconds: float, log: Path
) -> Outcome:
    outcome = Outcome()
    with contextlib.ExitStack() as stack:
        bar: Progress | None = None
        for event in _events(descriptor, process, stall_seconds, log):
            console.event("worker", worker=event)
            if event["event"] == "layer":
                if bar is None:
                    bar = stack.enter_context(console.progress("quantize", event["of"], unit="layer"))
                    bar.advance(event["index"] - 1)  # what an earlier run has done
                bar.advance()
            elif event["event"] == "phase":
                console.detail(f"worker: {_PHASES.get(event['name'], event['name'])}")
            elif event["event"] == "discarded":
                console.warning(_discarded(event))
            _note(event, outcome)
    return outcome


def _events(
    descriptor: int, process: child.Child, stall_seconds: float, log: Path
) -> Iterator[dict[str, Any]]:
    """The worker's events until it closes the pipe; watches that it lives meanwhile."""
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
            raise _hung(stall_seconds, log)


def _note(event: dict[str, Any], outcome: Outcome) -> None:
    kind = event["event"]
    if kind == "started":
        outcome.versions, outcome.threads = event["versions"], event["threads"]
    elif kind == "layer":
        outcome.layers = event["of"]
    elif kind == "resumed":
        outcome.resumed = event["units"]
    elif kind == "stopped":
        outcome.stopped = event["message"]
    elif kind == "failed":
        outcome.failure = event
    elif kind == "finished":
        outcome.finished, outcome.seconds = True, event["seconds"]


def _discarded(event: dict[str, Any]) -> str:
    """That unfinished work is given up, and why: it would be mixed with work of another kind."""
    why = "; ".join(event["differences"]) or "its files are damaged"
    return f"quantizing starts over, {event['units']} finished units are given up, because of {why}"


def _hung(stall_seconds: float, log: Path) -> RetryableError:
    return RetryableError(
        f"the quantize worker hung: no event, no CPU time and no I/O for {stall_seconds:.0f} s",
        where=str(log),
        hint="run again; if it hangs at the same place, look at the log and at the storage or the device",
        details=child.tail(log, 20),
    )


def _failed(failure: Mapping[str, str], log: Path) -> QuantpipeError:
    """msmodelslim's own error, as the kind of error that it is."""
    if failure["fault"] == "storage":
        return _storage(failure, log)
    kinds: dict[str, tuple[type[QuantpipeError], str]] = {
        "memory": (PreflightError, "use a host with more memory (`quantpipe plan` says how much)"),
        "environment": (
            PreflightError,
            "QUANTPIPE_QUANTIZE_PYTHON has to name an interpreter with torch, transformers and "
            "msmodelslim; `make setup` makes one",
        ),
        "device": (PreflightError, "correct quantize.device in the recipe"),
    }
    kind, hint = kinds.get(failure["fault"], (QuantizeError, "look at the log; it holds the whole traceback"))
    who = "msmodelslim" if kind is QuantizeError else "the quantize worker"
    what = f"{who} failed: {failure['type']}: {failure['message']}"
    return kind(what, where=str(log), hint=failure["action"] or hint, details=child.tail(log, 20))


def _storage(failure: Mapping[str, str], log: Path) -> QuantpipeError:
    """A fault of the storage is nobody's bug: the same error as everywhere, without frames of Python."""
    number = getattr(errno, failure["errno"])
    fault = storage_error(OSError(number, failure["message"], failure["file"] or None), log)
    if fault is None:
        raise AssertionError(f"{failure['errno']} is no fault of the storage")
    fault.details = (f"met by the quantize worker, whose log is {log}",)
    return fault


def _died(status: int, out_of_memory: bool, log: Path) -> QuantpipeError:
    """The worker ended without a word: why, as far as can be known."""
    details = child.tail(log, 20)
    name = child.signal_name(status)
    if out_of_memory:
        return PreflightError(
            "the kernel killed the quantize worker: out of memory",
            where=str(log),
            hint="engine `stock` holds the whole BF16 model in memory: use a larger host, or raise its limit",
            details=details,
        )
    if name in ("SIGKILL", "SIGTERM"):
        return RetryableError(
            f"the quantize worker was ended from outside by {name}",
            where=str(log),
            hint="run again; if nobody ended it, the host may be short of memory (see `dmesg`)",
            details=details,
        )
    how = f"crashed with {name}" if name else f"ended with status {status} and without a word"
    return QuantizeError(
        f"the quantize worker {how}", where=str(log), hint="look at the end of the log", details=details
    )
