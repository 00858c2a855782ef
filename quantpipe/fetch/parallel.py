"""Work on many files with threads, and stop at once when asked to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from quantpipe.digest import OnBytes
from quantpipe.fetch.hub import Stopped

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 64
"""Items that wait for a thread or for their turn: one large file does not stop the small ones."""


def each(
    work: Callable[[T, OnBytes], R], items: Iterable[T], *, jobs: int, on_bytes: OnBytes | None = None
) -> Generator[R, None, None]:
    """The results of `work(item, count)` in the order of the items, `jobs` at a time.

    Args:
        items: taken as they are needed, `AHEAD` of them before the result that is waited for.
        work: calls `count` often, with the number of bytes read: that call stops it when the caller is
            interrupted, so that nobody waits for the rest of a large shard after Ctrl-C.
        on_bytes: receives the same numbers as `count`.
    """
    stop = threading.Event()

    def count(amount: int) -> None:
        if stop.is_set():
            raise Stopped
        if on_bytes is not None:
            on_bytes(amount)

    pool = ThreadPoolExecutor(max_workers=max(1, jobs))
    begun: deque[Future[R]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item, count))
            if len(begun) >= AHEAD:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
