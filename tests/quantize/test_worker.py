"""The worker's own modules, without torch: fakes take its place and note what is called."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantpipe.quantize.worker import device, main
from quantpipe.quantize.worker.protocol import FAULTS, Job, Reporter
from quantpipe.quantize.worker.versions import versions

JOB = Job("/snap", "/out", "Qwen3-32B", {"process": [], "ü": None}, "npu", [0, 3], True)


# -- job file and pipe --------------------------------------------------------------------------------


def test_a_job_survives_its_file(tmp_path: Path) -> None:
    JOB.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == JOB


def test_events_are_json_lines_in_order() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    reporter = Reporter(writing)
    reporter.send("phase", name="load")
    reporter.send("failed", message="line one\nline two ü", path=Path("/x"))
    assert not os.get_inheritable(writing)  # what msmodelslim starts must not keep the pipe open
    os.close(writing)
    with os.fdopen(reading) as pipe:
        events = [json.loads(line) for line in pipe]
    assert events == [
        {"event": "phase", "name": "load"},
        {"event": "failed", "message": "line one\nline two ü", "path": "/x"},
    ]


# -- the device ---------------------------------------------------------------------------------------


class Calls(list[Any]):
    """What the fakes were asked, in order."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """Fakes for torch and torch_npu, which note their import and every call."""
    noted = Calls()
    environment: dict[str, str] = {}
    npu = types.SimpleNamespace(
        device_count=lambda: 8,
        init=lambda: noted.append("init"),
        set_device=lambda name: noted.append(("set_device", name)),
        set_compile_mode=lambda **options: noted.append(("set_compile_mode", options)),
    )

    class Finder:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            import importlib.machinery

            if name in ("torch", "torch_npu"):
                return importlib.machinery.ModuleSpec(name, self)  # type: ignore[arg-type]
            return None

        def create_module(self, spec: Any) -> types.ModuleType:
            return types.ModuleType(spec.name)

        def exec_module(self, module: types.ModuleType) -> None:
            noted.append((f"import {module.__name__}", dict(environment)))
            if module.__name__ == "torch_npu":
                sys.modules["torch"].npu = npu  # type: ignore[attr-defined]

    noted.environment = environment  # type: ignore[attr-defined]
    for name in ("torch", "torch_npu"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    yield noted
    for name in ("torch", "torch_npu"):
        sys.modules.pop(name, None)


def environment_of(calls: Calls) -> dict[str, str]:
    return calls.environment  # type: ignore[attr-defined,no-any-return]


def test_an_npu_is_prepared_in_the_order_that_torch_npu_needs(calls: Calls) -> None:
    device.prepare("npu", [2, 5], environment_of(calls))
    segments = {"PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True"}
    assert calls == [
        ("import torch", segments),
        ("import torch_npu", segments),
        "init",
        ("set_device", "npu:2"),
        ("set_compile_mode", {"jit_compile": False}),
    ]


def test_without_a_list_the_first_device_is_taken(calls: Calls) -> None:
    device.prepare("npu", None, environment_of(calls))
    assert ("set_device", "npu:0") in calls


def test_an_allocator_setting_of_the_user_stays(calls: Calls) -> None:
    environment_of(calls)["PYTORCH_NPU_ALLOC_CONF"] = "max_split_size_mb:32"
    device.prepare("npu", None, environment_of(calls))
    assert environment_of(calls) == {"PYTORCH_NPU_ALLOC_CONF": "max_split_size_mb:32"}


@pytest.mark.parametrize("indices", [[8], [0, 9], [7, 8]])
def test_a_device_that_is_not_there_is_named_and_none_is_touched(calls: Calls, indices: list[int]) -> None:
    with pytest.raises(device.DeviceError, match=f"npu:{max(indices)} is requested, but only 8"):
        device.prepare("npu", indices, environment_of(calls))
    assert [call for call in calls if not call[0].startswith("import")] == []


def test_the_last_visible_device_may_be_used(calls: Calls) -> None:
    device.prepare("npu", [7], environment_of(calls))
    assert ("set_device", "npu:7") in calls


def test_nothing_is_touched_for_a_cpu(calls: Calls) -> None:
    device.prepare("cpu", None, environment_of(calls))
    assert calls == [] and environment_of(calls) == {}
    assert "torch" not in sys.modules


# -- how failures are told ----------------------------------------------------------------------------


class SlimError(Exception):
    def __init__(self, text: str, action: str) -> None:
        super().__init__(text)
        self.action = action


def caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "storage"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "storage"),
        (OSError(errno.ESTALE, "Stale file handle"), "storage"),
        (OSError(errno.EIO, "Input/output error"), "storage"),
        (
            RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "storage",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("NPU out of memory. Tried to allocate 20.00 GiB"), "memory"),
        (ModuleNotFoundError("No module named 'msmodelslim'"), "environment"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), "memory"),
        (device.DeviceError("npu:9 was asked for, 8 visible"), "device"),
        (ValueError("something else"), "error"),
        (OSError(errno.EACCES, "Permission denied"), "storage"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "error"),
        (caused(RuntimeError("wrapped"), OSError(errno.ENOSPC, "full")), "storage"),
    ],
)
def test_the_kind_of_a_failure(error: Exception, fault: str) -> None:
    assert main.describe(error)["fault"] == fault
    assert fault in FAULTS


def test_a_fault_of_the_storage_names_itself_and_its_file() -> None:
    described = main.describe(OSError(errno.ESTALE, "Stale file handle", "/store/shard"))
    assert (described["errno"], described["file"]) == ("ESTALE", "/store/shard")
    described = main.describe(RuntimeError("I/O error: Input/output error (os error 5)"))
    assert (described["errno"], described["file"]) == ("EIO", "")


def test_the_first_cause_speaks_with_the_wrapper_s_advice() -> None:
    described = main.describe(caused(SlimError("failed", "look here"), KeyError("model.norm")))
    assert described["type"] == "KeyError"
    assert "model.norm" in described["message"]
    assert described["action"] == "look here"


def test_an_error_without_text_still_says_something() -> None:
    assert main.describe(ValueError())["message"] == "ValueError()"


def test_versions_leave_out_what_is_not_installed() -> None:
    found = versions()
    assert found["python"].count(".") == 2
    assert "numpy" in found and "torch_npu" not in found


# -- the entry point, in an interpreter that has no torch -----------------------------------------------


def test_an_environment_without_torch_is_told_on_the_pipe(tmp_path: Path) -> None:
    """As quantpipe starts it: by path, in another interpreter, `quantpipe` importable from its source."""
    job = Job("/snap", str(tmp_path), "Qwen3-32B", {}, "cpu", None, False)
    job.write(tmp_path / "job.json")
    (tmp_path / "torch.py").write_text("raise ImportError('no torch for you')")
    reading, writing = os.pipe()
    entry = Path(main.__file__).with_name("__main__.py")
    done = subprocess.run(
        [sys.executable, str(entry), str(tmp_path / "job.json"), str(writing)],
        pass_fds=[writing],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        events = [json.loads(line) for line in pipe]
    assert done.returncode == 1
    assert [event["event"] for event in events] == ["phase", "failed"]
    assert events[1]["fault"] == "environment"
    assert events[1]["message"] == "no torch for you"
    assert "Traceback" in done.stderr


def test_the_worker_imports_nothing_of_the_core(tmp_path: Path) -> None:
    """The environment of msmodelslim has neither pydantic nor click."""
    entry = Path(main.__file__).with_name("__main__.py")
    code = f"""
import runpy, sys
for name in ("pydantic", "click", "huggingface_hub", "tqdm", "yaml", "numpy"):
    sys.modules[name] = None
runpy.run_path({str(entry)!r}, run_name="spawned")
import quantpipe.quantize.worker.main, quantpipe.quantize.worker.stock
import quantpipe
print(quantpipe.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.stderr == ""
    assert Path(done.stdout.strip()) == Path(main.__file__).parents[2] / "__init__.py"
