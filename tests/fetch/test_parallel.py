from __future__ import annotations

import contextlib
import time

import pytest

from quantpipe.digest import OnBytes
from quantpipe.fetch.parallel import each


def test_results_in_order_and_bytes_counted() -> None:
    counted: list[int] = []

    def work(item: int, count: OnBytes) -> int:
        time.sleep(0.01 * (3 - item))
        count(item)
        return item * 10

    assert list(each(work, [0, 1, 2], jobs=3, on_bytes=counted.append)) == [0, 10, 20]
    assert sum(counted) == 3


def test_interrupted_caller_does_not_wait_for_the_rest() -> None:
    def endless(item: int, count: OnBytes) -> int:
        if item == 0:
            return 0
        while True:
            count(1)
            time.sleep(0.001)

    started = time.monotonic()
    with (
        pytest.raises(KeyboardInterrupt),
        contextlib.closing(each(endless, range(50), jobs=4)) as results,
    ):
        next(results)
        raise KeyboardInterrupt
    assert time.monotonic() - started < 1.0
