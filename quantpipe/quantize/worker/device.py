"""Every call to a device that quantpipe makes itself, in one place: this cannot be run without an NPU."""

from __future__ import annotations

import os
from typing import Any


class DeviceError(RuntimeError):
    """The device that was asked for is not here.

    Attributes:
        action: what to do next.
    """

    action = "correct quantize.device in the recipe, or ASCEND_RT_VISIBLE_DEVICES"


def prepare(device: str, indices: list[int] | None, environment: Any = os.environ) -> None:
    """Get the device ready, before any weight is loaded.

    For NPUs, in this order: expandable segments (read by torch_npu's allocator when it starts, so
    before the import; a value that the user has set stays), the import that registers "npu" with
    torch, the device's initialisation, the choice of the first device, and compiled operators instead of
    just-in-time ones (jit_compile off: otherwise every new shape is compiled on the spot).

    Raises:
        DeviceError: there is no such device; the message says which.
    """
    if device != "npu":
        return
    environment.setdefault("PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True")
    import torch
    import torch_npu  # noqa: F401  (registers torch.npu)

    available = torch.npu.device_count()
    wanted = indices or [0]
    if max(wanted) >= available:
        raise DeviceError(f"npu:{max(wanted)} was asked for, {available} visible")
    torch.npu.init()
    torch.npu.set_device(f"npu:{wanted[0]}")
    torch.npu.set_compile_mode(jit_compile=False)
