"""Work on many files with threads, and stop at once when asked to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from quantpipe.digest import OnBytes
from quantpipe.fetch.hub import Stopped

T = TypeVar("T")
R = TypeVar("R")


def each(
    work: Callable[[T, OnBytes], R], items: Iterable[T], *, jobs: int, on_bytes: OnBytes | None = None
) -> Generator[R, None, None]:
    """The results of `work(item, count)` in the order of the items, `jobs` at a time.

    Args:
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
    try:
        yield from pool.map(lambda item: work(item, count), items)
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
