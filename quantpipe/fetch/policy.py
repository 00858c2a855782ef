"""The retry policy of a fetch: attempts, waits between them, and when a transfer counts as stalled."""

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
        attempts: consecutive attempts with fewer than `floor_bytes`, for each file, or without an answer,
            for each request to the hub.
        mismatches: how often a file may fail its checksum before it counts as wrong at the hub.
        stall_seconds: a transfer that delivers fewer than `floor_bytes` in this time is aborted and retried.
        floor_bytes: see there.
        overall_seconds: if no file receives a byte for this long, the stage ends with exit code 75.
        backoff_seconds: the first wait; each further one is twice as long.
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

        It is at least what the server asked for, with jitter on top.
        """
        backoff = min(self.backoff_seconds * 2.0 ** min(attempt - 1, 16), 60.0)
        jittered = backoff * random.uniform(0.5, 1.0)
        if retry_after is not None:
            jittered = max(jittered, retry_after + random.uniform(0.0, 0.1) * retry_after)
        return min(jittered, self.longest_wait_seconds)

    def ask(self, question: Callable[[], T], what: str, on_retry: Callable[[str], object]) -> T:
        """Repeat a request to a hub until it answers.

        Args:
            question: may raise PassingFault.
            what: the subject of the request, for messages.
            on_retry: receives the reason of each retry.

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
