"""What a command does on SIGTERM."""

from __future__ import annotations

import signal
from typing import NoReturn

from quantpipe.errors import RetryableError


def stop_on_sigterm() -> None:
    """From now on SIGTERM stops in order: children are ended, finished work is kept, the exit code is 75."""
    signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(number: int, frame: object) -> NoReturn:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise RetryableError("stopped by SIGTERM", hint="rerun the same command to resume")
