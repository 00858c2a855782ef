"""The life of a smoke server: a free port, a start, readiness, and an end that leaves nothing."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from quantpipe.child import Child
from quantpipe.console import Console, Progress
from quantpipe.errors import PreflightError, QuantpipeError, SmokeError
from quantpipe.recipe import Timeouts
from quantpipe.smoke.command import ServerCommand
from quantpipe.smoke.diagnose import diagnose

_POLL_SECONDS = 0.25
_DYING_SECONDS = 1.0
"""A server that dies of a question still answers it, or half of it: wait so long for its end."""

_SHARDS = re.compile(rb"Loading safetensors checkpoint shards:\s+(\d+)% Completed \| (\d+)/(\d+)")


def choose_port(wanted: int) -> int:
    """A free TCP port of the loopback address.

    Args:
        wanted: this one and no other; 0 takes any.

    Raises:
        PreflightError: the wanted port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise PreflightError(
                f"port {wanted} cannot be had: {error.strerror}",
                where="--port or QUANTPIPE_PORT",
                hint=f"`ss -ltnp sport = :{wanted}` shows who has it; port 0 takes a free one",
            ) from error
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: ServerCommand, *, port: int, log: Path, run_id: str, timeouts: Timeouts, console: Console
) -> Iterator[str]:
    """Start a server, wait until it is ready, and end its whole tree afterwards, whatever happens.

    Returns:
        The base URL.

    Raises:
        SmokeError: it ended, hung or was not ready in time; with the cause, where the log shows it.
        PreflightError: the cause is this host: memory, port, driver.
    """
    console.detail(f"server log: {log}")
    start = log.stat().st_size if log.exists() else 0
    # `python -m` imports from its working directory first: let there be nothing but logs.
    environment = command.full_environment(run_id)
    with Child(command.arguments, environment=environment, log=log, folder=log.parent) as process:
        url = f"http://127.0.0.1:{port}"
        with console.progress("smoke", None) as bar:
            _wait_until_ready(url, process, log, start, timeouts, bar)
        try:
            yield url
        except SmokeError as error:
            raise _explained(error, process, log, start) from error


def _explained(error: SmokeError, process: Child, log: Path, start: int) -> QuantpipeError:
    """A probe's failure with its cause, where the server died of it, and with the place of its log."""
    try:
        status = process.wait(_DYING_SECONDS)
    except subprocess.TimeoutExpired:
        details = (*error.details, f"the server's log: {log}")
        return SmokeError(error.what, where=error.where, hint=error.hint, details=details)
    return diagnose(log, start, f"{error.what}; the server ended with status {status}")


def _wait_until_ready(
    url: str, process: Child, log: Path, start: int, timeouts: Timeouts, bar: Progress
) -> None:
    began = moved = time.monotonic()
    seen = (-1, -1)
    while not _healthy(url):
        status = process.poll()
        if status is not None:
            raise diagnose(log, start, f"the server ended with status {status} before it was ready")
        now = time.monotonic()
        signs = (process.activity(), log.stat().st_size)
        if signs != seen:
            seen, moved = signs, now
        bar.describe(f"smoke     {_phase(log, start)}")
        if now - moved > timeouts.stall:
            raise diagnose(log, start, f"the server hung: nothing moved for {timeouts.stall:.0f} s")
        if now - began > timeouts.ready:
            raise diagnose(log, start, f"the server was not ready after {timeouts.ready:.0f} s")
        time.sleep(_POLL_SECONDS)
    if process.poll() is not None:
        raise SmokeError("another server answers on the port", where=url, hint="choose another --port")


def _healthy(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with (
        contextlib.suppress(OSError, http.client.HTTPException),
        opener.open(f"{url}/health", timeout=5) as answer,
    ):
        return bool(answer.status == 200)
    return False


def _phase(log: Path, start: int) -> str:
    """What the server is at, by vLLM's own loading bar in its log."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - (1 << 14)))
        found = _SHARDS.findall(file.read())
    if not found:
        return "starting the server"
    done, total = (int(number) for number in found[-1][1:])
    return f"loading shards {done}/{total}" if done < total else "weights loaded, warming up"
