"""Processes of a run that have lost their supervisor: found by the run's id, and ended.

Every process of a smoke server carries QUANTPIPE_RUN_ID in its environment. As long as its supervisor
lives, that one ends it, also when quantpipe is killed. What carries the id of a run without a living
supervisor is an orphan: the supervisor itself was killed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from quantpipe.host import procfs, supervisor

VARIABLE = "QUANTPIPE_RUN_ID"
_SUPERVISOR = b"quantpipe/host/supervisor.py\0"
_POLL_SECONDS = 0.05


def carriers(wanted: Callable[[str], bool]) -> dict[int, str]:
    """The living processes whose run id is wanted: process id to run id.

    Processes of other users, and zombies, show no environment and are not among them.
    """
    found = {}
    for process in procfs.processes():
        if (run_id := procfs.variable(process, VARIABLE)) is not None and wanted(run_id):
            found[process] = run_id
    return found


def watched(wanted: Callable[[str], bool]) -> set[str]:
    """The run ids with a living supervisor."""
    return {run_id for process, run_id in carriers(wanted).items() if _is_supervisor(process)}


def orphans(wanted: Callable[[str], bool]) -> list[int]:
    """The processes of runs that no supervisor watches over; never this process or one above it."""
    processes = carriers(wanted)
    living = {run_id for process, run_id in processes.items() if _is_supervisor(process)}
    own = procfs.ancestors(os.getpid())
    return sorted(
        process for process, run_id in processes.items() if run_id not in living and process not in own
    )


def reap(wanted: Callable[[str], bool], *, grace: float = 5.0, patience: float = 10.0) -> list[int]:
    """End every orphan: SIGTERM, `grace` seconds, then SIGKILL until none is left.

    As the supervisor does, it leaves resource trackers to end by themselves, and unlinks what the others
    had mapped of /dev/shm and nobody removed.

    Returns:
        The processes that were ended; those that do not end (in an uninterruptible wait of a driver, say)
        are found by `orphans` again.
    """
    ended: set[int] = set()
    asked: set[int] = set()
    segments: set[tuple[str, int]] = set()
    began = served = time.monotonic()
    while found := orphans(wanted):
        now = time.monotonic()
        if now - began > grace + supervisor.TRACKER_SECONDS + patience:
            break
        segments |= supervisor.shared_memory_of(found)
        if workers := [process for process in found if not supervisor.is_tracker(process)]:
            served = now
            hard = now - began > grace
            send = workers if hard else set(workers) - asked
            supervisor.send(signal.SIGKILL if hard else signal.SIGTERM, send)
            asked.update(workers)
        elif now - served > supervisor.TRACKER_SECONDS:
            supervisor.send(signal.SIGKILL, found)
        ended.update(found)
        time.sleep(_POLL_SECONDS)
    supervisor.remove_shared_memory(segments)
    return sorted(ended)


def _is_supervisor(process: int) -> bool:
    return _SUPERVISOR in procfs.command_line(process)
