from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from quantpipe import doctor, durable
from quantpipe.cli import render
from quantpipe.doctor import Observation
from quantpipe.host import machine
from quantpipe.settings import Settings


def observe(tmp_path: Path, **changes: object) -> dict[str, Observation]:
    values: dict[str, Any] = {
        "store": tmp_path / "deep" / "store",
        "quantize_python": Path(sys.executable),
        "serve_python": Path(sys.executable),
        **changes,
    }
    found = doctor.observe(Settings(**values))
    return {observation.subject: observation for observation in found}


def test_each_subject_is_looked_at(tmp_path: Path) -> None:
    found = observe(tmp_path)
    assert list(found) == [
        "quantize interpreter",
        "serve interpreter",
        "devices",
        "memory",
        "disk",
        "store readers",
        "store semantics",
    ]
    assert found["disk"].ok and found["memory"].ok and found["store semantics"].ok


def test_an_interpreter_without_the_packages(tmp_path: Path) -> None:
    found = observe(tmp_path)["quantize interpreter"]
    assert not found.ok
    assert "msmodelslim" in found.text
    assert "QUANTPIPE_QUANTIZE_PYTHON" in found.text
    assert "make setup" in (found.hint or "")


def test_looking_leaves_no_trace(tmp_path: Path) -> None:
    observe(tmp_path)
    assert not (tmp_path / "deep").exists()
    (tmp_path / "there").mkdir()
    observe(tmp_path, store=tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def test_what_a_run_put_into_the_store_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    write_bytes = durable.write_bytes

    def beside_a_run(path: Path, data: bytes) -> None:
        (store / "sources").mkdir(exist_ok=True)
        write_bytes(path, data)

    monkeypatch.setattr(durable, "write_bytes", beside_a_run)
    assert observe(tmp_path, store=store)["store semantics"].ok
    assert [path.name for path in store.iterdir()] == ["sources"]


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = observe(tmp_path, store=tmp_path / "file")["store semantics"]
    assert not found.ok
    assert str(tmp_path / "file") in found.text
    assert found.hint


def test_a_filesystem_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, target: str) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "symlink_to", refused)
    found = observe(tmp_path)["store semantics"]
    assert not found.ok
    assert "not supported" in found.text


def test_a_store_that_only_its_owner_can_read(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    readers = observe(tmp_path, store=store)["store readers"]
    assert readers.ok, "servers may run as the same user"
    assert f"{store} has mode 0700" in readers.text
    assert readers.hint is not None and readers.hint.startswith("chmod o+x ")
    assert any(readers.hint in line for line in render.doctor([readers])[1])


def test_devices_and_their_selection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no NPU" in observe(tmp_path)["devices"].text
    for number in (0, 1, 10):
        (tmp_path / f"davinci{number}").touch()
    (tmp_path / "davinci_manager").touch()
    monkeypatch.setattr(machine, "NPU_DEVICES", tmp_path)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    assert observe(tmp_path)["devices"].text == "3 NPUs, ASCEND_RT_VISIBLE_DEVICES=0,1"


def test_observations_as_people_see_them() -> None:
    value, lines = render.doctor(
        [Observation("disk", True, "plenty"), Observation("memory", False, "little", "buy")]
    )
    assert lines[0].startswith("ok") and "plenty" in lines[0]
    assert lines[1].startswith("FAIL") and lines[2].strip() == "next: buy"
    assert value[1] == {"subject": "memory", "ok": False, "text": "little", "hint": "buy"}
