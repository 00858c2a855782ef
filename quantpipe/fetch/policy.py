"""How patient a fetch is: attempts, waits between them, and when a transfer counts as stalled."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from quantpipe.errors import RetryableError, UsageError
from quantpipe.fetch.hubs.base import PassingFault

T = TypeVar("T")


@dataclass(frozen=True)
class Policy:
    """Limits of one fetch.

    Attributes:
        attempts: tries in a row that bring fewer than `floor_bytes`, for each file, and that bring no
            answer, for each question to the hub (QUANTPIPE_FETCH_ATTEMPTS).
        mismatches: how often a file may arrive with the wrong content before it counts as wrong at the hub.
        stall_seconds: a transfer that lands fewer than `floor_bytes` in this time is cut off and tried
            again (QUANTPIPE_FETCH_STALL_SECONDS).
        floor_bytes: see there.
        overall_seconds: without any byte of any file for so long, the stage ends with exit code 75.
        backoff_seconds: the first wait; every further one doubles.
        longest_wait_seconds: no wait is longer, whatever the server asks for.
        jobs: files at a time; 0 leaves it to the hub and the settings (QUANTPIPE_FETCH_JOBS).
    """

    attempts: int = 8
    mismatches: int = 3
    stall_seconds: float = 60.0
    floor_bytes: int = 64 << 10
    overall_seconds: float = 900.0
    backoff_seconds: float = 1.0
    longest_wait_seconds: float = 300.0
    jobs: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Policy:
        """The defaults, with what the environment says.

        Raises:
            UsageError: a variable is not a positive number.
        """
        stall = _positive(environment, "QUANTPIPE_FETCH_STALL_SECONDS", cls.stall_seconds)
        return cls(
            attempts=int(_positive(environment, "QUANTPIPE_FETCH_ATTEMPTS", cls.attempts)),
            stall_seconds=stall,
            overall_seconds=max(cls.overall_seconds, 3 * stall),
            jobs=int(_positive(environment, "QUANTPIPE_FETCH_JOBS", cls.jobs)),
        )

    def wait_seconds(self, attempt: int, retry_after: float | None = None) -> float:
        """How long to wait after the `attempt`-th failure (from 1): exponential, with jitter.

        What the server asked for is the least; it gets jitter on top.
        """
        backoff = min(self.backoff_seconds * 2.0 ** min(attempt - 1, 16), 60.0)
        jittered = backoff * random.uniform(0.5, 1.0)
        if retry_after is not None:
            jittered = max(jittered, retry_after + random.uniform(0.0, 0.1) * retry_after)
        return min(jittered, self.longest_wait_seconds)

    def ask(self, question: Callable[[], T], what: str, on_retry: Callable[[str], object]) -> T:
        """Put a question to a hub until it answers.

        Args:
            question: may raise PassingFault.
            what: what is asked, for messages.
            on_retry: told why it is asked again.

        Raises:
            RetryableError: it did not answer in `attempts` attempts.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                return question()
            except PassingFault as fault:
                if attempt == self.attempts:
                    raise RetryableError(
                        f"the hub did not answer in {attempt} attempts: {fault}",
                        where=what,
                        hint="check the network, the proxy and the hub's status page, then run again",
                    ) from fault
                on_retry(f"{what}: {fault}; trying again")
                time.sleep(self.wait_seconds(attempt, fault.retry_after))
        raise AssertionError("attempts is at least 1")


def _positive(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = 0
    if value <= 0:
        raise UsageError(
            f"{name} has to be a positive number, not {text!r}",
            hint="correct or unset the environment variable",
        )
    return value
