"""In the worker's interpreter: the engine with a fake for the device, which notes what is asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def check(folder: str, job: dict[str, Any]) -> None:
    """The order of the device calls of one run of two layers: nothing is moved before its turn."""
    import torch

    from quantpipe.quantize.worker import device
    from quantpipe.quantize.worker.protocol import Job
    from quantpipe.quantize.worker.streaming import engine

    noted: list[tuple[str, Any]] = []
    cpu = torch.device("cpu")

    def place(kind: str, indices: Any) -> Any:
        noted.append(("place", (kind, indices)))
        return cpu

    def move(tensors: dict[str, Any], where: Any) -> dict[str, Any]:
        assert where is cpu
        noted.append(("move", sorted(tensors)[0]))
        return dict(tensors)

    device.place, device.move = place, move  # type: ignore[assignment]
    device.release = lambda where: noted.append(("release", len(list(Path(folder).glob("state/unit-*")))))

    class Silent:
        def send(self, event: str, **fields: Any) -> None:
            pass

    engine.quantize(Job(**{**job, "device": "npu", "device_indices": [3]}), Silent())  # type: ignore[arg-type]
    prompts = [("move", "ids")] * 4
    layers = [("move", "input_layernorm.weight"), ("release", 2), ("move", "input_layernorm.weight")]
    head = [("move", "weight"), ("move", "weight"), ("release", 4)]
    wanted = [("place", ("npu", [3])), ("move", "weight"), *prompts, ("release", 1)]
    assert noted == [*wanted, *layers, ("release", 3), *head], noted


def check_npu_calls() -> None:
    """place and release with a fake for torch.npu."""
    import types

    import torch

    from quantpipe.quantize.worker import device

    noted: list[Any] = []
    place = types.SimpleNamespace(type="npu", index=2)
    torch.npu = types.SimpleNamespace(  # type: ignore[attr-defined]
        synchronize=lambda where: noted.append(("synchronize", where)),
        empty_cache=lambda: noted.append("empty_cache"),
    )
    device.release(place)
    assert noted == [("synchronize", place), "empty_cache"]
    noted.clear()
    device.release(torch.device("cpu"))
    assert noted == []
    try:
        device.place("npu", [0, 1])
    except device.DeviceError as error:
        assert "one device" in str(error)
    else:
        raise AssertionError("several devices were taken")
    assert device.place("cpu", None) == torch.device("cpu")
