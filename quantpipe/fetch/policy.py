"""How patient a fetch is: attempts, waits between them, and when a transfer counts as stalled."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from quantpipe.errors import RetryableError
from quantpipe.fetch.hub import PassingFault

if TYPE_CHECKING:
    from quantpipe.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class Policy:
    """Limits of one fetch.

    Attributes:
        attempts: tries in a row that bring fewer than `floor_bytes`, for each file, and that bring no
            answer, for each question to the hub.
        mismatches: how often a file may arrive with the wrong content before it counts as wrong at the hub.
        stall_seconds: a transfer that lands fewer than `floor_bytes` in this time is cut off and tried
            again.
        floor_bytes: see there.
        overall_seconds: without any byte of any file for so long, the stage ends with exit code 75.
        backoff_seconds: the first wait; every further one doubles.
        longest_wait_seconds: no wait is longer, whatever the server asks for.
        jobs: files at a time; 0 leaves it to the hub and the settings.
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
    def of(cls, settings: Settings) -> Policy:
        """The policy that the settings ask for."""
        return cls(
            attempts=settings.fetch_attempts,
            stall_seconds=settings.fetch_stall_seconds,
            overall_seconds=max(cls.overall_seconds, 3 * settings.fetch_stall_seconds),
            jobs=settings.fetch_jobs or 0,
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
                on_retry(f"{what}: {fault}; retrying")
                time.sleep(self.wait_seconds(attempt, fault.retry_after))
        raise AssertionError("attempts is at least 1")
