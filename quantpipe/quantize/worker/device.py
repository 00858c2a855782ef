"""Every call to a device that quantpipe makes itself, in one place: it cannot be run without an NPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Mapping
from typing import Any

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""malloc.h"""


class DeviceError(RuntimeError):
    """The requested device is not available.

    Attributes:
        action: what to do next.
    """

    action = "correct quantize.device in the recipe, or ASCEND_RT_VISIBLE_DEVICES"


def prepare(device: str, indices: list[int] | None, environment: Any = os.environ) -> None:
    """Prepare the device, before any weight is loaded.

    For NPUs, in this order: expandable segments (read by torch_npu's allocator when it starts, so
    before the import; a value set by the user is kept), the import that registers "npu" with
    torch, the device's initialization, the choice of the first device, and precompiled operators (jit_compile
    off: otherwise every new shape is compiled at its first use).

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
        raise DeviceError(f"npu:{max(wanted)} is requested, but only {available} NPUs are visible")
    torch.npu.init()
    torch.npu.set_device(f"npu:{wanted[0]}")
    torch.npu.set_compile_mode(jit_compile=False)


def place(device: str, indices: list[int] | None) -> Any:
    """The torch.device on which engine `streaming` processes layers.

    Raises:
        DeviceError: several devices are requested, which only engine `stock` can use.
    """
    import torch

    if indices is not None and len(indices) > 1:
        raise DeviceError("engine `streaming` uses one device: use engine `stock` for several")
    return torch.device(device, (indices or [0])[0]) if device == "npu" else torch.device(device)


def move(tensors: Mapping[str, Any], place: Any) -> dict[str, Any]:
    """A layer's tensors on the device; on the host they are not copied."""
    return {name: tensor.to(place) for name, tensor in tensors.items()}


def release(place: Any) -> None:
    """After each layer: return its memory to the device."""
    if place.type == "npu":
        import torch

        torch.npu.synchronize(place)
        torch.npu.empty_cache()


def tune_memory(environment: Any = os.environ) -> None:
    """Before the first product on a CPU: how much memory the libraries cache, and how much they free.

    oneDNN compiles each product for its shape and caches the last 1,024 of them, about 1 MB each; experts
    see another number of tokens each time, so that memory grew with every layer. 64 are as fast.

    The C library returns large blocks to the system at once, and matrices are large: the system then clears
    new pages for each intermediate result, which took an eighth of all CPU time. It may keep up to 1 GiB at
    the end of its heap. Only the GNU C library has these settings (mallopt(3)).
    """
    environment.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        library.mallopt(_M_TOP_PAD, 64 << 20)
