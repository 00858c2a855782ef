"""Shared fixtures: interpreters of the other environments, and stores in states made once for all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock
from helpers.commands import ROOT, copy_store, made_once, write_recipe

pytest_plugins = ["helpers.environments"]

# No deadlines: two busy cores make any of them a lie. The same examples in every CI run; new ones by hand.
hypothesis.settings.register_profile("quantpipe", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("quantpipe")

# Settings of whoever runs the tests do not count; where the other environments are is for them to say.
for variable in [name for name in os.environ if name.startswith("QUANTPIPE_")]:
    if not variable.endswith("_PYTHON"):
        del os.environ[variable]

# Whatever is started here would compile the package anew each time: a tenth of a second, some hundred times.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A job that a shell starts in the background ignores Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = ("tests/test_pipeline.py", "tests/quantize/test_stage.py", "tests/smoke/test_rehearsal.py")
"""Files whose tests take ten seconds and more: they come first, so that no worker ends with one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; otherwise in the order in which they were found."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def interpreter(variable: str, folder: str) -> Path:
    """An interpreter of another environment; the test is skipped where there is none."""
    python = Path(os.environ.get(variable) or ROOT / folder / "bin" / "python")
    if not python.is_file():
        pytest.skip(f"no interpreter at {python}: run `make setup`, or set {variable}")
    return python


@pytest.fixture(scope="session")
def quantize_python() -> Path:
    return interpreter("QUANTPIPE_QUANTIZE_PYTHON", ".venv-quantize")


@pytest.fixture(scope="session")
def serve_python() -> Path:
    return interpreter("QUANTPIPE_SERVE_PYTHON", ".venv-serve")


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all xdist workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base


@pytest.fixture(scope="session")
def small_recipe(session_folder: Path) -> Path:
    """The cut-down tiny recipe, the same file for all workers."""
    folder = session_folder / "small-recipe"
    with FileLock(session_folder / "small-recipe.lock"):
        path = folder / "recipe.yaml"
        return path if path.exists() else write_recipe(folder)


@pytest.fixture(scope="session")
def _published(session_folder: Path, small_recipe: Path, _quantized: Path, serve_python: Path) -> Path:
    del serve_python
    return made_once(session_folder, "published", ["run", small_recipe], start=_quantized)


@pytest.fixture(scope="session")
def _quantized(session_folder: Path, small_recipe: Path, quantize_python: Path) -> Path:
    del quantize_python
    return made_once(session_folder, "quantized", ["run", small_recipe, "--until", "quantize"])


@pytest.fixture
def published_store(_published: Path, tmp_path: Path) -> Path:
    """A copy of a store in which the small recipe is published."""
    return copy_store(_published, tmp_path / "store")


@pytest.fixture
def quantized_store(_quantized: Path, tmp_path: Path) -> Path:
    """A copy of a store in which a run of the small recipe stopped after quantize."""
    return copy_store(_quantized, tmp_path / "store")
