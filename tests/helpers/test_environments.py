"""The plugin on rooms of its own, run by the core's interpreter: nothing passes that did not run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from helpers.commands import ROOT

CONFTEST = """
from helpers import environments
pytest_plugins = ["helpers.environments"]
ROOM = environments.Environment({room!r}, "elsewhere", "ELSEWHERE_PYTHON", "none", (), {{}})
environments.ENVIRONMENTS = (ROOM,)
"""
MIXED = """
import os, signal
import pytest

@pytest.mark.parametrize("number", [1, 2, 3])
def test_variants(number):
    assert number != 2, "planted"

@pytest.mark.skip(reason="planted skip")
def test_skipped():
    raise AssertionError

@pytest.mark.xfail(reason="planted xfail", strict=True)
def test_expected():
    raise AssertionError

def test_pid(tmp_path):
    (tmp_path / "x").write_text("")
    assert os.getppid() != int(os.environ["CORE_PID"])

def test_killed():
    os.kill(os.getpid(), signal.SIGKILL)

def test_after_a_death():
    pass
"""


def said_of(folder: Path, files: dict[str, str], *options: str) -> str:
    """What pytest says of a room with these files."""
    room = folder / "room"
    room.mkdir(exist_ok=True)
    for name, source in files.items():
        (room / f"test_{name}.py").write_text(source)
    (folder / "conftest.py").write_text(CONFTEST.format(room=str(room)))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  elsewhere\n  slow\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rfE", *options, str(folder)],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
            "ELSEWHERE_PYTHON": sys.executable,
            "CORE_PID": str(os.getpid()),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout + done.stderr


def test_every_way_to_end_arrives(tmp_path: Path) -> None:
    said = said_of(tmp_path, {"mixed": MIXED})
    assert "AssertionError: planted" in said
    assert "the child ended with -9" in said
    failed = [line for line in said.splitlines() if line.startswith("FAILED")]
    assert [re.split(r"::| ", line)[2] for line in failed] == ["test_variants", "test_killed"]
    # two variants, test_pid and test_after_a_death
    assert "2 failed, 4 passed, 1 skipped, 1 xfailed" in said


def test_names_and_markers_select(tmp_path: Path) -> None:
    slow = "import pytest\n\n@pytest.mark.slow\ndef test_late(): assert 0\n\ndef test_early(): pass\n"
    options = ("-k", "test_pid or test_after or late or early", "-m", "not slow")
    assert "3 passed, 5 deselected" in said_of(tmp_path, {"mixed": MIXED, "slow": slow}, *options)


LOST = {
    "class": "class TestMore:\n    def test_b(self): pass",
    "twice": "def test_a(): pass",
    "condition": "if True:\n    def test_b(): pass",
    "coroutine": "async def test_b(): pass",
}


def test_what_would_be_lost_is_an_error(tmp_path: Path) -> None:
    files = {name: f"def test_a(): pass\n\n{more}\n" for name, more in LOST.items()}
    said = said_of(tmp_path, {**files, "empty": "def check_a(): pass\n"})
    assert said.count("plain functions at the top") == 5
    assert "5 errors" in said.splitlines()[-1]
    assert "passed" not in said.splitlines()[-1]


HIDDEN = {
    "assigned": "def test_a(): pass\n\ntest_b = lambda: None\n",
    "gone": "def test_a(): pass\n\ndef test_b(): pass\n\ndel test_b\n",
    "marker": "import pytest\nlate = pytest.mark.slow\n\n@late\ndef test_a(): pass\n",
    "import": "import nowhere_to_be_found\n\ndef test_a(): pass\n\ndef test_b(): pass\n",
}


def test_what_only_the_other_pytest_sees_is_a_failure(tmp_path: Path) -> None:
    said = said_of(tmp_path, HIDDEN)
    assert "6 failed" in said.splitlines()[-1]
    assert "passed" not in said.splitlines()[-1]
    assert "No module named 'nowhere_to_be_found'" in said
    assert "the file holds {'test_a': ['slow']}, but from its text: {'test_a': []}" in said


def test_each_variant_reports_its_end(tmp_path: Path) -> None:
    conftest = "def pytest_runtest_protocol(item, nextitem): return 'three' in item.name or None\n"
    source = "import pytest\n\n@pytest.mark.parametrize('n', ['one', 'three'])\ndef test_a(n): pass\n"
    room = tmp_path / "room"
    room.mkdir()
    (room / "conftest.py").write_text(conftest)
    said = said_of(tmp_path, {"variants": source})
    assert "1 of 2 variants have reported their end" in said
    assert "1 failed, 1 passed" in said
