"""The most host memory that this process and all that it started have held together, by sampling."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from types import TracebackType

from quantpipe.host import procfs, supervisor

SAMPLE_SECONDS = 1.0
"""The peaks of interest last longer: a decoder layer, a loaded model."""


class PeakMemory:
    """Samples while its block runs, where the host grants a thread for it.

    What a container engine starts does not descend from here: not counted.

    Attributes:
        bytes: the peak so far: anonymous and shared memory, without mapped files, which can be dropped; 0
            where the host grants no thread.
    """

    def __init__(self, seconds: float = SAMPLE_SECONDS) -> None:
        self.bytes = 0
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        with suppress(RuntimeError):  # a limit on threads: a figure is lost, and no work
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        while True:
            own = os.getpid()
            processes = [own, *supervisor.descendants(own)]
            self.bytes = max(self.bytes, sum(procfs.memory(process) for process in processes))
            if self._ended.wait(self._seconds):
                return
