from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from quantpipe.errors import PreflightError
from quantpipe.host import cgroups, machine


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_memory_is_between_nothing_and_all_of_it() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 16 << 20 < machine.memory_limit() <= total


def test_what_a_control_group_leaves_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "memory_left", lambda: [3 << 20, 2 << 20])
    assert machine.memory_limit() == 2 << 20
    monkeypatch.setattr(cgroups, "memory_left", lambda: [-1])
    assert machine.memory_limit() == 0


def test_devices_are_counted_in_the_order_of_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("davinci10", "davinci2", "davinci_manager", "davinci", "other"):
        (tmp_path / name).touch()
    monkeypatch.setattr(machine, "NPU_DEVICES", tmp_path)
    assert machine.npus() == ["davinci2", "davinci10"]
    machine.require_npu("smoke.launcher")


def test_no_device_is_a_preflight_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "NPU_DEVICES", tmp_path)
    with pytest.raises(PreflightError) as caught:
        machine.require_npu("quantize.device")
    assert caught.value.where == "quantize.device"
    assert "tiny" in (caught.value.hint or "")


def test_an_interpreter_that_has_the_packages() -> None:
    machine.require_interpreter(Path(sys.executable), "V", ("json", "yaml"))


def test_all_missing_packages_are_named() -> None:
    with pytest.raises(PreflightError, match="lacks nowhere_a, nowhere_b") as caught:
        machine.require_interpreter(Path(sys.executable), "QUANTPIPE_X", ("json", "nowhere_a", "nowhere_b"))
    assert "QUANTPIPE_X" in (caught.value.where or "")


def test_no_such_interpreter(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="no such interpreter") as caught:
        machine.require_interpreter(tmp_path / "python", "QUANTPIPE_X", ("json",))
    assert "make setup" in (caught.value.hint or "")


@pytest.mark.parametrize("body", ["exit 3", "kill -9 $$"])
def test_an_interpreter_that_does_not_work(tmp_path: Path, body: str) -> None:
    with pytest.raises(PreflightError, match="does not work"):
        machine.require_interpreter(script(tmp_path / "python", body), "V", ("json",))


def test_a_file_that_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("no program")
    with pytest.raises(PreflightError, match="does not work"):
        machine.require_interpreter(tmp_path / "python", "V", ("json",))


def test_the_working_directory_offers_no_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout every interpreter would seem to have `quantpipe`."""
    (tmp_path / "only_here").mkdir()
    (tmp_path / "only_here" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PreflightError, match="lacks only_here"):
        machine.require_interpreter(Path(sys.executable), "V", ("only_here",))


def test_nothing_is_imported_to_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "explodes.py").write_text("raise SystemExit('imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    machine.require_interpreter(Path(sys.executable), "V", ("explodes",))


def test_an_interpreter_that_no_setting_names(tmp_path: Path) -> None:
    python = tmp_path / "python"
    assert machine.named_interpreter(python, "QUANTPIPE_SERVE_PYTHON") == python, (
        "whether it exists is not asked"
    )
    with pytest.raises(PreflightError, match="no interpreter is set") as caught:
        machine.named_interpreter(None, "QUANTPIPE_SERVE_PYTHON")
    assert caught.value.where == "QUANTPIPE_SERVE_PYTHON"
    assert "set QUANTPIPE_SERVE_PYTHON to the interpreter" in str(caught.value.hint)
