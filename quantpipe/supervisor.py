"""Run one command so that nothing of it outlives quantpipe, whatever happens to quantpipe.

Started by child.py as `python supervisor.py GRACE COMMAND...` in a session of its own. Its standard
input is a pipe that quantpipe holds: when that closes (quantpipe stops the child, ends, crashes or is
killed by SIGKILL) the whole tree below is ended, first by SIGTERM, after GRACE seconds by SIGKILL.
As a subreaper it also inherits, and so can end, processes whose parents are gone or that moved to
another session. Exits with the command's status, or 128 + N if signal N ended it.

Standard library only: it is run without quantpipe's dependencies, `python -I -S`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_POLL_SECONDS = 0.05


def descendants(root: int) -> list[int]:
    """The processes below `root`, by their parents in /proc/*/stat (proc(5), field 4)."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  (no pathlib import at this price)
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
            parent = int(file.read().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _signal_all(number: int) -> None:
    for process in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, number)


def _reap() -> bool:
    """Collect what has ended; whether anything is left."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return bool(descendants(os.getpid()))


def end_tree(child: subprocess.Popen[bytes], grace: float) -> None:
    """SIGTERM to the whole tree, `grace` seconds of patience, then SIGKILL until nothing is left."""
    _signal_all(signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and (child.poll() is None or _reap()):
        time.sleep(_POLL_SECONDS)
    while child.poll() is None or _reap():
        _signal_all(signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _default_signals() -> None:
    """The command decides itself about the signals that its supervisor ignores."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def main(arguments: list[str]) -> int:
    """Start the command, wait for its end or for the pipe's, leave nothing behind."""
    grace, command = float(arguments[0]), arguments[1:]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            close_fds=False,
            restore_signals=True,
            preexec_fn=_default_signals,
            start_new_session=True,
        )
    except OSError as error:
        print(f"quantpipe: cannot start {command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 127
    while child.poll() is None:
        ready, _, _ = select.select([sys.stdin.fileno()], [], [], _POLL_SECONDS)
        if ready and not os.read(sys.stdin.fileno(), 1):
            break
    end_tree(child, grace)
    code = child.returncode
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
