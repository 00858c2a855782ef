"""Child processes that cannot outlive quantpipe: the quantize worker and the smoke server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from quantpipe.host import procfs, supervisor

GRACE_SECONDS = 10.0
"""How long a child may take to end after SIGTERM before SIGKILL; for its workers see supervisor.py."""


class Child:
    """A command under a supervisor, its output in a log file. Use it as a context manager.

    Args:
        command: program and arguments.
        environment: the child's whole environment.
        log: receives standard output and error, appended.
        grace: seconds between SIGTERM and SIGKILL.
        pass_fds: descriptors that the child inherits.
        folder: its working directory; None is quantpipe's own.
        scratch: a folder that is removed after its end, also where quantpipe was killed meanwhile.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        grace: float = GRACE_SECONDS,
        pass_fds: Sequence[int] = (),
        folder: Path | None = None,
        scratch: Path | None = None,
    ) -> None:
        remove = "" if scratch is None else str(scratch)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", supervisor.__file__, str(grace), remove, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                pass_fds=pass_fds,
                cwd=folder,
                start_new_session=True,
            )

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, 128 + N for signal N; None while it runs."""
        status = self._process.poll()
        return None if status is None else _exit_status(status)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the whole tree.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        return _exit_status(self._process.wait(timeout))

    def stop(self) -> int:
        """End the whole tree, if it still runs; returns its exit status.

        A second Ctrl-C meanwhile leaves nothing behind: the supervisor continues by itself.
        """
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        return _exit_status(self._process.wait())

    def bytes_read(self) -> int:
        """Bytes that the tree has read so far, by read or by paging in mapped files."""
        found = (procfs.io(process) for process in supervisor.descendants(self.pid))
        return sum(max(io.read, io.paged_in) for io in found)

    def activity(self) -> int:
        """A number that grows while anything in the tree computes, reads or writes.

        CPU time in clock ticks plus bytes passed through read and write. If it does not change, the tree
        is waiting for something.
        """
        return sum(_activity(process) for process in supervisor.descendants(self.pid))


def _exit_status(code: int) -> int:
    """128 + N where signal N ended the supervisor itself: subprocess says -N."""
    return 128 - code if code < 0 else code


def _activity(process: int) -> int:
    stat, io = procfs.stat(process), procfs.io(process)
    return (0 if stat is None else stat.cpu_ticks) + io.read + io.written


def signal_name(status: int) -> str | None:
    """The signal of an exit status above 128, such as "SIGKILL"; None for other statuses."""
    try:
        return signal.Signals(status - 128).name
    except ValueError:
        return None


def tail(log: Path, lines: int = 50, *, limit: int = 1 << 16) -> list[str]:
    """The last lines of a log file; empty where there is none.

    Args:
        lines: the maximum.
        limit: bytes to read at most, from the end.
    """
    with contextlib.suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - limit))
        return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    return []
