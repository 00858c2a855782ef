"""Fixtures of the attacks: the ground, a host, a reader, and how much is to be done."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import figures
from .ground import Ground, memory_folder
from .hosts import Host, Reader

LONG = os.environ.get("ATTACK") == "long"
"""`make test-attack`: every point, instead of some that a seed chooses."""

POINTS = int(os.environ.get("ATTACK_POINTS", "100" if LONG else "1"))
"""Points of each stage; 0 for all."""


def pytest_configure(config: pytest.Config) -> None:
    if LONG and not hasattr(config, "workerinput"):
        descriptor, path = tempfile.mkstemp(prefix="quantpipe-attack-figures-")
        os.close(descriptor)
        os.environ[figures.VARIABLE] = path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    path = os.environ.get(figures.VARIABLE)
    if path and not hasattr(config, "workerinput"):
        terminalreporter.section("what ran")
        for line in figures.table(Path(path)):
            terminalreporter.write_line(line)
        Path(path).unlink()


@pytest.fixture
def seed() -> int:
    """Of the sample: ATTACK_SEED, a fixed one in CI, else a new one; a failing test shows it."""
    given = os.environ.get("ATTACK_SEED")
    if given is not None:
        return int(given)
    return 0 if os.environ.get("CI") else random.randrange(1 << 16)


@pytest.fixture(scope="session")
def ground(
    session_folder: Path, _quantized: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    """Skips where nothing can be compiled."""
    own = memory_folder()
    template = next(_quantized.glob("runs/*/*/staging/checkpoint"))
    made = Ground.prepare(session_folder, own, template)
    if made is None:
        pytest.skip("no C compiler (cc, gcc or clang): the shim of the attacks cannot be built")
    try:
        yield made
    finally:
        shutil.rmtree(own, ignore_errors=True)


@pytest.fixture(scope="session")
def host(ground: Ground) -> Iterator[Host]:
    with Host(ground.own, ground.library) as started:
        yield started


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    with Reader(0.0 if LONG else 0.002) as started:
        yield started
