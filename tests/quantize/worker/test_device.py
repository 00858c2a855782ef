"""What engine streaming asks of a device, and in which order: no NPU is here, so a fake notes it."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch

from quantpipe.quantize.worker import device
from quantpipe.quantize.worker.protocol import Job
from quantpipe.quantize.worker.streaming import engine

from .engines import MOE, SHORT, Quantizer, dataset, spec


def calls(folder: Path, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the device calls of one run of two layers: nothing is moved before its turn."""

    noted: list[tuple[str, Any]] = []
    cpu = torch.device("cpu")

    def place(kind: str, indices: Any) -> Any:
        noted.append(("place", (kind, indices)))
        return cpu

    def move(tensors: dict[str, Any], where: Any) -> dict[str, Any]:
        assert where is cpu
        noted.append(("move", sorted(tensors)[0]))
        return dict(tensors)

    monkeypatch.setattr(device, "place", place)
    monkeypatch.setattr(device, "move", move)
    monkeypatch.setattr(
        device, "release", lambda where: noted.append(("release", len(list(folder.glob("state/unit-*")))))
    )

    class Silent:
        def send(self, event: str, **fields: Any) -> None:
            pass

    engine.quantize(Job(**{**job, "device": "npu", "device_indices": [3]}), Silent())  # type: ignore[arg-type]
    prompts = [("move", "ids")] * 4
    layers = [("move", "input_layernorm.weight"), ("release", 2), ("move", "input_layernorm.weight")]
    head = [("move", "weight"), ("move", "weight"), ("release", 4)]
    wanted = [("place", ("npu", [3])), ("move", "weight"), *prompts, ("release", 1)]
    assert noted == [*wanted, *layers, ("release", 3), *head], noted


def test_a_layer_is_moved_when_it_is_due_and_released_after_it(
    quantizer: Quantizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = quantizer.make(tmp_path / "model", **MOE)
    (tmp_path / "checkpoint").mkdir()
    job = {
        "snapshot": str(snapshot),
        "output": str(tmp_path / "checkpoint"),
        "adapter": "Qwen3-235B",
        "spec": {**spec(), "dataset": dataset(tmp_path, "calibration", SHORT)},
        "device": "npu",
        "device_indices": [3],
        "trust_remote_code": False,
        "engine": "streaming",
        "state": str(tmp_path / "state"),
    }
    calls(tmp_path, job, monkeypatch)


def test_the_calls_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """place and release with a fake for torch.npu."""

    noted: list[Any] = []
    place = types.SimpleNamespace(type="npu", index=2)
    npu = types.SimpleNamespace(
        synchronize=lambda where: noted.append(("synchronize", where)),
        empty_cache=lambda: noted.append("empty_cache"),
    )
    monkeypatch.setattr(torch, "npu", npu, raising=False)
    device.release(place)
    assert noted == [("synchronize", place), "empty_cache"]
    noted.clear()
    device.release(torch.device("cpu"))
    assert noted == []
    with pytest.raises(device.DeviceError, match="one device"):
        device.place("npu", [0, 1])
    assert device.place("cpu", None) == torch.device("cpu")
