"""From the bytes of a tensor to numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpipe.checkpoint.safetensors import Tensor

Array = NDArray[Any]

_NUMPY = {
    "I8": "<i1",
    "U8": "<u1",
    "I16": "<i2",
    "U16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "I64": "<i8",
    "U64": "<u8",
}


def decode(raw: bytes | memoryview, dtype: str) -> Array:
    """The elements of a tensor: integers as they are, floats as float32.

    Raises:
        ValueError: the dtype is not supported.
    """
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype in ("F16", "F32", "F64"):
        return np.frombuffer(raw, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype(np.float32)
    if dtype in _NUMPY:
        return np.frombuffer(raw, _NUMPY[dtype])
    raise ValueError(f"cannot decode {dtype}")


def read_tensor(path: Path, tensor: Tensor) -> Array:
    """One tensor of a checkpoint, as `decode` gives it, in its shape.

    Raises:
        OSError: the shard cannot be read.
    """
    with (path / tensor.shard).open("rb", buffering=0) as file:
        raw = bytearray(tensor.size)
        view, got = memoryview(raw), 0
        file.seek(tensor.start)
        while got < len(raw):
            count = file.readinto(view[got:])
            if not count:
                raise OSError(None, f"{tensor.shard} shrank while being read")
            got += count
    return decode(bytes(raw), tensor.dtype).reshape(tensor.shape)
