from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from quantpipe.errors import PreflightError
from quantpipe.host import machine as host


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_memory_is_between_nothing_and_all_of_it() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 16 << 20 < host.memory_limit() <= total


@pytest.mark.parametrize(
    ("listing", "folder", "limit", "used"),
    [
        ("0::/pods/one", "pods", "memory.max", "memory.current"),
        ("9:cpu:/x\n4:memory:/pods/one", "memory/pods", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_what_a_control_group_leaves_is_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listing: str, folder: str, limit: str, used: str
) -> None:
    group = tmp_path / folder
    (group / "one").mkdir(parents=True)
    (group / limit).write_text(f"{3 << 20}\n")
    (group / used).write_text(f"{1 << 20}\n")
    (group / "one" / limit).write_text("max\n")
    (group / "one" / used).write_text("0\n")
    monkeypatch.setattr(host, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(host, "_own_groups", lambda: listing)
    assert host.memory_limit() == 2 << 20


def test_devices_are_counted_in_the_order_of_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("davinci10", "davinci2", "davinci_manager", "davinci", "other"):
        (tmp_path / name).touch()
    monkeypatch.setattr(host, "NPU_DEVICES", tmp_path)
    assert host.npus() == ["davinci2", "davinci10"]
    host.require_npu("smoke.launcher")


def test_no_device_is_a_preflight_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "NPU_DEVICES", tmp_path)
    with pytest.raises(PreflightError) as caught:
        host.require_npu("quantize.device")
    assert caught.value.where == "quantize.device"
    assert "tiny" in (caught.value.hint or "")


def test_an_interpreter_that_has_the_packages() -> None:
    host.require_interpreter(Path(sys.executable), "V", ("json", "yaml"))


def test_all_missing_packages_are_named() -> None:
    with pytest.raises(PreflightError, match="lacks nowhere_a, nowhere_b") as caught:
        host.require_interpreter(Path(sys.executable), "QUANTPIPE_X", ("json", "nowhere_a", "nowhere_b"))
    assert "QUANTPIPE_X" in (caught.value.where or "")


def test_no_such_interpreter(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="no such interpreter") as caught:
        host.require_interpreter(tmp_path / "python", "QUANTPIPE_X", ("json",))
    assert "make setup" in (caught.value.hint or "")


@pytest.mark.parametrize("body", ["exit 3", "kill -9 $$"])
def test_an_interpreter_that_does_not_work(tmp_path: Path, body: str) -> None:
    with pytest.raises(PreflightError, match="does not work"):
        host.require_interpreter(script(tmp_path / "python", body), "V", ("json",))


def test_a_file_that_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("no program")
    with pytest.raises(PreflightError, match="does not work"):
        host.require_interpreter(tmp_path / "python", "V", ("json",))


def test_the_working_directory_offers_no_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout every interpreter would seem to have `quantpipe`."""
    (tmp_path / "only_here").mkdir()
    (tmp_path / "only_here" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PreflightError, match="lacks only_here"):
        host.require_interpreter(Path(sys.executable), "V", ("only_here",))


def test_nothing_is_imported_to_find_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "explodes.py").write_text("raise SystemExit('imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    host.require_interpreter(Path(sys.executable), "V", ("explodes",))


def test_another_interpreter_gets_cann_s_path_and_nothing_of_ours() -> None:
    own = str(Path(sys.prefix) / "lib" / "site-packages")
    base = {
        "PYTHONPATH": os.pathsep.join(["/usr/local/Ascend/tbe", own, "", "/opt/x"]),
        "PYTHONHOME": "/x",
        "VIRTUAL_ENV": sys.prefix,
        "LD_LIBRARY_PATH": "/usr/local/Ascend/lib64",
    }
    assert host.for_other_python(base) == {
        "PYTHONPATH": os.pathsep.join(["/usr/local/Ascend/tbe", "/opt/x"]),
        "LD_LIBRARY_PATH": "/usr/local/Ascend/lib64",
    }
    assert host.for_other_python({"PYTHONPATH": own}) == {}
    assert host.for_other_python({}) == {}
