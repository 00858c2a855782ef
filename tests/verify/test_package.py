"""`quantpipe.verify` is the package and the function at once."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import quantpipe.verify
from quantpipe.errors import UsageError
from quantpipe.verify import standalone


def test_the_package_can_be_called(tmp_path: Path) -> None:
    report = quantpipe.verify(tmp_path)
    assert not report.ok
    assert [finding.id for finding in report.findings] == ["A1"]
    assert quantpipe.verify(str(tmp_path), deep=True, target="0.21.0").target == "0.21.0"


def test_it_stays_the_package(tmp_path: Path) -> None:
    assert quantpipe.verify.standalone is standalone  # type: ignore[attr-defined]
    assert inspect.ismodule(quantpipe.verify)


def test_its_errors_are_those_of_the_function(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        quantpipe.verify(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not a version"):
        quantpipe.verify(tmp_path, target="new")


def test_the_function_has_every_option_of_the_command() -> None:
    parameters = inspect.signature(standalone.verify).parameters
    options = {field.name: field.default for field in fields(standalone.Options)}
    own = {name: parameters[name].default for name in parameters if name not in ("path", "console")}
    assert own == options


def test_importing_it_is_cheap() -> None:
    """A no-op refresh imports the package for its stage's sake, and needs no numpy."""
    code = "import sys, quantpipe.verify; print([m for m in ('numpy', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
