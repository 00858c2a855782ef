from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from .harness import LONG, MAX_MEMORY_BYTES, ran


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """No input of a target may need much memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MAX_MEMORY_BYTES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LONG:
        for target, count in sorted(ran.items()):
            terminalreporter.write_line(f"fuzz: {target}: {count:,} inputs")
        terminalreporter.write_line(f"fuzz: {sum(ran.values()):,} inputs in all")
