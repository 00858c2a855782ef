"""What engine streaming asks of a device, and in which order: no NPU is here, so a fake notes it."""

from __future__ import annotations

from pathlib import Path

from .conftest import SHORT, Quantizer, dataset, spec
from .test_streaming import MOE


def test_a_layer_is_moved_when_its_turn_comes_and_released_behind_it(
    quantizer: Quantizer, tmp_path: Path
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
    arguments = {"folder": str(tmp_path), "job": job}
    done = quantizer.ask(do="import", module="streaming_device", function="check", arguments=arguments)
    assert done["status"] == 0, done["events"]


def test_the_calls_themselves(quantizer: Quantizer) -> None:
    done = quantizer.ask(do="import", module="streaming_device", function="check_npu_calls", arguments={})
    assert done["status"] == 0, done["events"]
