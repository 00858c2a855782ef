"""Launchers behind one interface: a process of this host, a container, or a server that runs already."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from quantpipe.console import Console
from quantpipe.errors import PreflightError, UsageError
from quantpipe.host import orphans
from quantpipe.host.machine import named_interpreter, require_interpreter, require_npu
from quantpipe.recipe.smoke import Smoke
from quantpipe.settings import Settings
from quantpipe.smoke.server import Server, choose_port, running
from quantpipe.smoke.server_command import API_KEY, ServerCommand, smoke_command, with_key


class Launcher(Protocol):
    """One way to get a server."""

    @property
    def ours(self) -> bool:
        """Whether quantpipe starts and ends the server."""
        ...

    def preflight(self) -> None:
        """Check whether this host has what it needs.

        Raises:
            PreflightError: it does not.
        """
        ...

    def command(self, checkpoint: Path, port: int, run_id: str) -> ServerCommand:
        """What it would start."""
        ...

    def serving(
        self, checkpoint: Path, log: Path, run_id: str, console: Console
    ) -> AbstractContextManager[Server]:
        """A ready server for as long as the block runs.

        Raises:
            SmokeError, PreflightError: as `server.running`.
        """
        ...

    def bench_command(self, arguments: tuple[str, ...], result: Path, run_id: str) -> ServerCommand:
        """`vllm bench serve` with the server's vLLM; the result, JSON, is written to `result`.

        Raises:
            PreflightError: there is no vLLM to call.
        """
        ...

    def reap(self, wanted: Callable[[str], bool]) -> list[str]:
        """End the leftovers of killed runs, by run id; returns what was ended."""
        ...


@dataclass(frozen=True)
class Process:
    """Launchers `native` and `cpu`: vLLM of the serving environment, as a process of this host."""

    smoke: Smoke
    settings: Settings

    ours = True

    def preflight(self) -> None:
        """Interpreter, device and port."""
        rehearsal = self.smoke.launcher == "cpu"
        if self._program() is None:
            packages = ("vllm", "quantpipe") if rehearsal else ("vllm", "vllm_ascend")
            require_interpreter(self.settings.serve_python, "QUANTPIPE_SERVE_PYTHON", packages)
        if not rehearsal:
            require_npu("smoke.launcher")
        choose_port(self.settings.port)

    def command(self, checkpoint: Path, port: int, run_id: str) -> ServerCommand:
        """The API server's module, or `vllm` on PATH where there is no serving environment."""
        del run_id  # passed in the environment, at the start
        program = self._program()
        python = self._python() if program is None else Path(program)
        command = smoke_command(
            self.smoke.launcher, python, checkpoint, self.smoke.serve, port, program=program
        )
        return replace(command, passed=self.settings.pass_environment)

    @contextlib.contextmanager
    def serving(self, checkpoint: Path, log: Path, run_id: str, console: Console) -> Iterator[Server]:
        """Start it, wait for it, end it."""
        port = choose_port(self.settings.port)
        command = replace(self, smoke=with_key(self.smoke)).command(checkpoint, port, run_id)
        console.event("server", **command.describe())
        with running(
            command, port=port, log=log, run_id=run_id, timeouts=self.smoke.timeouts, console=console
        ) as server:
            yield server

    def bench_command(self, arguments: tuple[str, ...], result: Path, run_id: str) -> ServerCommand:
        """By the same interpreter."""
        del run_id
        program = self._program()
        start = (program,) if program else (str(self._python()), "-m", "vllm.entrypoints.cli.main")
        folder = ("--save-result", "--result-dir", str(result.parent), "--result-filename", result.name)
        environment = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        passed = self.settings.pass_environment
        return ServerCommand((*start, *arguments, *folder), environment, passed=passed)

    def reap(self, wanted: Callable[[str], bool]) -> list[str]:
        """By the run id in the environment of processes."""
        return [f"process {process}" for process in orphans.reap(wanted)]

    def _program(self) -> str | None:
        """`vllm` on PATH, where there is no serving environment; a rehearsal always has one."""
        if self.smoke.launcher == "cpu" or _is_file(self.settings.serve_python):
            return None
        return shutil.which("vllm")

    def _python(self) -> Path:
        return named_interpreter(self.settings.serve_python, "QUANTPIPE_SERVE_PYTHON")


@dataclass(frozen=True)
class Attached:
    """Launcher `attach`: a server that somebody else starts and ends."""

    smoke: Smoke
    settings: Settings

    ours = False

    def preflight(self) -> None:
        """Nothing: the load itself finds out whether it answers."""

    def command(self, checkpoint: Path, port: int, run_id: str) -> ServerCommand:
        """There is none.

        Raises:
            UsageError: always.
        """
        del checkpoint, port, run_id
        hint = "choose another launcher to see its command"
        raise UsageError("launcher attach starts nothing", where="smoke.launcher", hint=hint)

    @contextlib.contextmanager
    def serving(self, checkpoint: Path, log: Path, run_id: str, console: Console) -> Iterator[Server]:
        """The server at the URL, as it is."""
        del checkpoint, log, run_id
        url = (self.smoke.url or "").rstrip("/")
        console.event("server", url=url)
        # Not the key of the profile: the recipe names the address, the settings say who may have a key.
        named = any(_origin(url) == _origin(each) for each in self.settings.api_key_urls)
        yield Server(url, api_key=os.environ.get(API_KEY) if named else None)

    def bench_command(self, arguments: tuple[str, ...], result: Path, run_id: str) -> ServerCommand:
        """By this host's serving environment, if there is one."""
        if not _is_file(self.settings.serve_python) and shutil.which("vllm") is None:
            raise PreflightError(
                "smoke.bench needs `vllm bench serve`, but there is no vLLM on this host",
                where="QUANTPIPE_SERVE_PYTHON",
                hint="name an interpreter that has vllm, or run it on the server's host",
            )
        return Process(self.smoke, self.settings).bench_command(arguments, result, run_id)

    def reap(self, wanted: Callable[[str], bool]) -> list[str]:
        """Nothing: nothing was started."""
        del wanted
        return []


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what decides who gets a request."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or (443 if scheme == "https" else 80)


def _is_file(python: Path | None) -> bool:
    return python is not None and python.is_file()


def launcher_for(smoke: Smoke, settings: Settings, visible: Path) -> Launcher:
    """The launcher that the recipe names.

    Args:
        visible: the folder to mount into a container: the store, or the checkpoint itself.
    """
    if smoke.launcher == "attach":
        return Attached(smoke, settings)
    if smoke.launcher in ("docker", "podman"):
        from quantpipe.smoke.container import Containers

        return Containers(smoke, settings, visible)
    return Process(smoke, settings)
