"""Hosts that run quantpipe's commands under the shim, and readers of a store."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from helpers.commands import environment
from helpers.processes import alive, eventually

from . import shim

HERE = Path(__file__).parent
LIMIT = 120.0
"""Seconds after which a command that should take one counts as hung."""

SEPARATE = ("unshare", "--pid", "--uts", "--mount", "--fork", "--kill-child=SIGKILL", "--mount-proc")
"""A host of its own: it sees no process of another one, and ends, with its mounts, when its parent does."""


_outputs = itertools.count()


@functools.lru_cache(maxsize=1)
def namespaces() -> bool:
    """Whether this user may make such hosts."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*SEPARATE, "true"], capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status (-9: killed) and what it printed on both streams."""

    status: int
    text: str

    @property
    def crashed(self) -> bool:
        """Whether the user saw a traceback."""
        return "Traceback" in self.text or "unexpected " in self.text


class Running:
    """A command that was started on a host."""

    def __init__(self, host: Host, identity: int, out: Path, page: shim.Control | None) -> None:
        self._host = host
        self._identity = identity
        self._out = out
        self._page = page
        self.pid = 0

    def ended(self, limit: float = LIMIT) -> Ended:
        """Wait for its end; one that hangs is killed.

        Raises:
            TimeoutError: it hung.
        """
        try:
            answer = self._host.receive(self._identity, "status", limit)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            raise
        return Ended(answer["status"], self._out.read_text("utf-8", "replace"))

    def over(self) -> bool:
        """Whether it has ended."""
        return self._host.has(self._identity, "status")

    def signal(self, number: int) -> None:
        """To the command's process and all that it started."""
        pids = [self.pid] if self._page is None else self._page.pids()
        self._host.send({"signal": number, "pids": pids})

    def interrupt(self, number: int) -> None:
        """To the command's own process, as `kill` and a terminal do."""
        self._host.send({"signal": number, "pids": [self.pid]})

    def waits(self, limit: float = LIMIT) -> bool:
        """Until a call of it waits (PAUSE): True; False where the command ends before."""
        assert self._page is not None
        deadline = time.monotonic() + limit
        while not self._page.waits:
            if self.over():
                return False
            assert time.monotonic() < deadline, "neither the end nor the call to wait at"
            time.sleep(0.002)
        return True


class Host:
    """A process that runs commands; a context manager.

    Args:
        folder: for pages and output; `template` in it is what fake_quantizer.py copies.
        library: of shim.py.
        name: another host than those of other names; None is this host.
        separate: in namespaces of its own.
        lapse: seconds in which leases lapse; 0 leaves the default.
        disk: options of a tmpfs at `folder/disk` that only this host sees; it needs `separate`.
    """

    def __init__(
        self,
        folder: Path,
        library: Path,
        name: str | None = None,
        *,
        separate: bool = False,
        lapse: float = 0,
        disk: str = "",
    ) -> None:
        self.folder = folder
        self.lapse = lapse
        self._count = 0
        self._answers: dict[tuple[int, str], dict[str, Any]] = {}
        self._pending = b""
        command = [sys.executable, str(HERE / "driver.py"), *([name] if name else [])]
        if separate:
            mount = f"mkdir -p disk; mount -t tmpfs -o {disk} tmpfs disk && " if disk else ""
            script = ["sh", "-c", f'hostname "$0"; {mount}exec "$@"', name or "host"]
            command = [*SEPARATE, *script, *command]
        variables = environment(LD_PRELOAD=str(library), PYTHONDONTWRITEBYTECODE="1")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables, cwd=folder
        )

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def start(
        self,
        *argv: str | Path,
        control: shim.Control | None = None,
        real: bool = False,
        memory: int = 0,
        folder: Path | None = None,
        **variables: str,
    ) -> Running:
        """Start `quantpipe ARGV`.

        Args:
            control: the page to follow.
            real: with the real worker and server; `variables` name their interpreters.
            memory: bytes of address space beyond what the host's process has; 0 for no limit.
            folder: the working directory.
        """
        self._count += 1
        out = self.folder / f"out-{os.getpid()}-{next(_outputs)}"
        self.send(
            {
                "id": self._count,
                "argv": [str(argument) for argument in argv],
                "control": None if control is None else str(control.path),
                "out": str(out),
                "folder": str(folder or self.folder),
                "environment": variables,
                "real": real,
                "memory": memory,
                "lapse": self.lapse,
            }
        )
        running = Running(self, self._count, out, control)
        running.pid = self.receive(self._count, "pid", LIMIT)["pid"]
        return running

    def run(self, *argv: str | Path, **options: Any) -> Ended:
        """Run `quantpipe ARGV` to its end."""
        return self.start(*argv, **options).ended()

    def seen(self, path: Path) -> Path:
        """A path of this host's own mounts, as this process can see it."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return Path(f"/proc/{children[0]}/root{path.resolve()}")

    # -- the pipe -------------------------------------------------------------------------------

    def send(self, value: Mapping[str, Any]) -> None:
        """A line to driver.py."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value).encode() + b"\n")
        self._process.stdin.flush()

    def has(self, identity: int, key: str) -> bool:
        """Whether that answer has come."""
        self._read(0)
        return (identity, key) in self._answers

    def receive(self, identity: int, key: str, limit: float) -> dict[str, Any]:
        """The answer to a command that has this key."""
        deadline = time.monotonic() + limit
        while (identity, key) not in self._answers:
            left = deadline - time.monotonic()
            if left < 0:
                raise TimeoutError(f"a command hangs: no {key} within {limit:.0f} s")
            self._read(left)
        return self._answers.pop((identity, key))

    def _read(self, seconds: float) -> None:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        if not select.select([descriptor], [], [], seconds)[0]:
            return
        data = os.read(descriptor, 1 << 16)
        if not data:
            raise RuntimeError(f"the host has ended with {self._process.wait()}")
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self._answers[(answer["id"], next(key for key in answer if key != "id"))] = answer


@dataclass(frozen=True)
class Looks:
    """What a reader saw."""

    looks: int
    moves: int
    wrong: list[str]


class Reader:
    """reader.py in a process of its own; a context manager.

    Args:
        pause: seconds between two looks.
    """

    def __init__(self, pause: float = 0.0) -> None:
        command = [sys.executable, "-IS", str(HERE / "reader.py"), str(pause)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    @contextlib.contextmanager
    def following(self, folder: Path) -> Iterator[list[Looks]]:
        """Look at the pointer in `folder` while the block runs; the list has the result afterwards."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(os.fsencode(folder) + b"\n")
        self._process.stdin.flush()
        found: list[Looks] = []
        try:
            yield found
        finally:
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
            found.append(Looks(**json.loads(self._process.stdout.readline())))


def ends(pid: int) -> bool:
    """Whether a process is gone, or becomes so in time."""
    return eventually(lambda: not alive(pid), seconds=5)
