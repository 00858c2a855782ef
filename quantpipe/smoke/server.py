"""The life of a smoke server: a free port, a start, readiness, and an end without leftovers."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from quantpipe.console import Console, Progress
from quantpipe.errors import PreflightError, QuantpipeError, SmokeError
from quantpipe.host import orphans, procfs
from quantpipe.host.cgroups import out_of_memory_kills
from quantpipe.host.child import Child
from quantpipe.recipe.smoke import Timeouts
from quantpipe.redact import masked_arguments
from quantpipe.smoke import scratch
from quantpipe.smoke.client import opener
from quantpipe.smoke.devices import device_processes
from quantpipe.smoke.diagnose import diagnose
from quantpipe.smoke.progress import Watch
from quantpipe.smoke.server_command import API_KEY, ServerCommand

_POLL_SECONDS = 0.25
_DYING_SECONDS = 1.0
"""A server that crashes on a request may still answer it, or half of it: wait so long for its end."""

_READ_STEP = 64 << 20
"""Reading so many bytes is progress; a waiting server reads far less."""

_RELEASE_SECONDS = 30.0
"""How long it may take until port and device memory are free after the last process has ended."""


@dataclass(frozen=True)
class Server:
    """A server that is ready.

    Attributes:
        url: its address.
        log: its output; None where somebody else started it.
        start: where in the log its output begins, bytes.
        command: that started it; empty where somebody else did.
        api_key: the key that it gets with each request; None where it gets none.
    """

    url: str
    log: Path | None = None
    start: int = 0
    command: tuple[str, ...] = ()
    api_key: str | None = field(default=None, repr=False)


def choose_port(wanted: int) -> int:
    """A free TCP port of the loopback address.

    Args:
        wanted: this port only; 0 takes any.

    Raises:
        PreflightError: the wanted port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise PreflightError(
                f"port {wanted} is not available: {error.strerror}",
                where="--port or QUANTPIPE_PORT",
                hint=f"`ss -ltnp sport = :{wanted}` shows which process uses it; port 0 takes a free one",
            ) from error
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: ServerCommand,
    *,
    port: int,
    log: Path,
    run_id: str,
    timeouts: Timeouts,
    console: Console,
    clean: Callable[[], None] = lambda: None,
) -> Iterator[Server]:
    """Start a server, wait until it is ready, and end its whole process tree afterwards, whatever happens.

    Args:
        port: of the loopback address, where the command will listen.
        run_id: marks every process of the server.
        clean: removes what the processes leave elsewhere (a container), after they have ended.

    Raises:
        SmokeError: it ended, hung or was not ready in time; with the cause, if the log shows it.
        PreflightError: the cause is this host (memory, port, driver), or something is left over.
    """
    console.detail(f"server log: {log}")
    start = log.stat().st_size if log.exists() else 0
    kills, strangers = out_of_memory_kills(), device_processes()
    url = f"http://127.0.0.1:{port}"
    try:
        with (
            scratch.for_sockets(run_id) as own,
            # `python -m` imports from its working directory first: one with logs only.
            own.child(command, run_id, log=log, folder=log.parent) as process,
        ):
            life = _Life(process, log, start, kills)
            with console.progress("smoke", None) as bar:
                life.wait_until_ready(url, timeouts, bar)
            try:
                yield Server(
                    url,
                    log,
                    start,
                    tuple(masked_arguments(command.arguments)),
                    command.environment.get(API_KEY),
                )
            except SmokeError as error:
                raise life.explained(error) from error
    except BaseException:
        clean()
        # Not the port: the failure may be that another server uses it.
        if left := _leftovers(run_id, None, strangers):
            console.warning("left over from the smoke server: " + ", ".join(left))
        raise
    clean()
    if left := _leftovers(run_id, port, strangers):
        raise PreflightError(
            "left over from the smoke server: " + ", ".join(left),
            where=str(log),
            hint="end the process, or reset the device; the checkpoint itself passed",
        )


def _leftovers(run_id: str, port: int | None, strangers: dict[int, int]) -> list[str]:
    """What is left over from a server some time after its end, as text."""
    orphans.reap(lambda found: found == run_id)
    deadline = time.monotonic() + _RELEASE_SECONDS
    while left := _look(run_id, port, strangers):
        if time.monotonic() > deadline:
            return left
        time.sleep(_POLL_SECONDS)
    return []


def _look(run_id: str, port: int | None, strangers: dict[int, int]) -> list[str]:
    left = [f"process {process}" for process in orphans.orphans(lambda found: found == run_id)]
    if port is not None:
        try:
            choose_port(port)
        except PreflightError:
            left.append(f"port {port}")
    held = device_processes()
    # Another user's process may have started meanwhile: only memory of a process that has ended is left over.
    gone = [p for p in held if p not in strangers and not procfs.exists(p)]
    return left + [f"{held[process]} MiB of device memory (process {process})" for process in gone]


class _Life:
    """A started server, watched.

    Args:
        start: where in the log its output begins, bytes.
        kills: `out_of_memory_kills` before it started.
    """

    def __init__(self, process: Child, log: Path, start: int, kills: int) -> None:
        self._process = process
        self._log = log
        self._start = start
        self._kills = kills
        self._watch = Watch(log, start)

    def wait_until_ready(self, url: str, timeouts: Timeouts, bar: Progress) -> None:
        """Wait for /health, as long as the server makes progress.

        Raises:
            SmokeError, PreflightError: it ended, hung, or made no progress.
        """
        alive = progress = time.monotonic()
        signs, steps = (-1, -1), (-1, -1)
        while not _healthy(url):
            if (status := self._process.poll()) is not None:
                raise self._diagnosed(f"the server ended with status {status} before it was ready", status)
            now = time.monotonic()
            self._watch.look()
            new_signs = (self._process.activity(), self._log.stat().st_size)
            new_steps = (self._watch.steps, self._process.bytes_read() // _READ_STEP)
            alive = alive if new_signs == signs else now
            progress = progress if new_steps == steps else now
            signs, steps = new_signs, new_steps
            bar.describe(f"smoke     {self._watch.phase}")
            if now - alive > timeouts.stall:
                raise self._diagnosed(
                    f"the server hung while {self._watch.phase}: "
                    f"no output, no CPU time and no I/O for {timeouts.stall:.0f} s"
                )
            if now - progress > timeouts.ready:
                raise self._diagnosed(
                    f"the server was not ready: no progress for {timeouts.ready:.0f} s "
                    f"while {self._watch.phase}"
                )
            time.sleep(_POLL_SECONDS)
        if self._process.poll() is not None:
            raise SmokeError(
                "another server answers on the port",
                where=url,
                hint="choose another --port, or 0 for a free one",
            )

    def explained(self, error: SmokeError) -> QuantpipeError:
        """A request's failure, with the cause if the server crashed on it, and with the path of its log."""
        try:
            status = self._process.wait(_DYING_SECONDS)
        except subprocess.TimeoutExpired:
            details = (*error.details, f"the server's log: {self._log}")
            return SmokeError(error.what, where=error.where, hint=error.hint, details=details)
        return self._diagnosed(f"{error.what}; the server ended with status {status}", status)

    def _diagnosed(self, what: str, status: int | None = None) -> QuantpipeError:
        killed = status is not None and out_of_memory_kills() > self._kills
        return diagnose(self._log, self._start, what, out_of_memory=killed)


def _healthy(url: str) -> bool:
    with (
        contextlib.suppress(OSError, http.client.HTTPException),
        opener().open(f"{url}/health", timeout=5) as answer,
    ):
        return bool(answer.status == 200)
    return False
