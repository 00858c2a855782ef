"""Read ahead: while one group of tensors is worked on, the next one is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch


class Prefetch:
    """Reads groups of tensors in order, one group ahead of the one in progress. Use as a context manager.

    Args:
        read: reads one group.
        groups: what to read, in the order in which `take` is called.
    """

    def __init__(self, read: Callable[[str], dict[str, torch.Tensor]], groups: Sequence[str]) -> None:
        self._read, self._waiting = read, list(groups)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ahead: Future[dict[str, torch.Tensor]] | None = None
        self._start()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> None:
        self._ahead = self._pool.submit(self._read, self._waiting.pop(0)) if self._waiting else None

    def take(self) -> dict[str, torch.Tensor]:
        """The next group; reading of the one after it begins."""
        if self._ahead is None:
            raise IndexError("all groups are taken")
        group = self._ahead.result()
        self._start()
        return group
