"""Random sketches of weights: they measure the distance of two matrices without multiplying either in full.

For a Gaussian Z of k columns, the mean square of (A - B R) Z is k times the squared Frobenius norm of
A - B R. Rotating a weight of n inputs costs n products per element; sketching it costs k, in chunks of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantpipe.checkpoint.decode import Array, decode, read_tensor
from quantpipe.checkpoint.safetensors import DTYPE_BYTES, Tensor

COLUMNS = 24
_CHUNK = 8 << 20
_SEED = 20
_FAR = 1e6


@dataclass(frozen=True)
class Weight:
    """A weight on disk, as the numbers that it represents.

    Attributes:
        scale: float32 [o, 1] where it is quantized.
        columns: float32 [i]: factors that belong to its inputs, such as those of the norm in front of it.
    """

    path: Path
    tensor: Tensor
    scale: Array | None = None
    columns: Array | None = None

    def rows(self) -> Iterator[tuple[int, Array]]:
        """Chunks of rows, float32 [n, i], each with the number of its first row.

        Raises:
            OSError: the shard cannot be read.
        """
        count, width = self.tensor.shape
        step = max(1, _CHUNK // max(1, width))
        size = DTYPE_BYTES[self.tensor.dtype] * width
        with (self.path / self.tensor.shard).open("rb", buffering=0) as file:
            file.seek(self.tensor.start)
            for first in range(0, count, step):
                number = min(step, count - first)
                raw = file.read(number * size)
                if len(raw) != number * size:
                    raise OSError(None, f"{self.tensor.shard} shrank while being read")
                chunk = decode(raw, self.tensor.dtype).reshape(number, width).astype(np.float32)
                if self.scale is not None:
                    chunk *= self.scale[first : first + number]
                if self.columns is not None:
                    chunk *= self.columns
                yield first, chunk

    def whole(self) -> Array:
        """All of it, float32 [o, i]: for small weights."""
        return np.concatenate([chunk for _, chunk in self.rows()])

    def right(self, vectors: Array) -> Array:
        """`weight @ vectors`: [o, k]."""
        return np.concatenate([chunk @ vectors for _, chunk in self.rows()])

    def left(self, vectors: Array) -> Array:
        """`vectors.T @ weight`: [k, i]."""
        total = np.zeros((vectors.shape[1], self.tensor.shape[1]), np.float32)
        for first, chunk in self.rows():
            total += vectors[first : first + len(chunk)].T @ chunk
        return total


def gaussian(size: int) -> Array:
    """The vectors of every sketch: float32 [size, COLUMNS], always the same."""
    return np.random.default_rng(_SEED).standard_normal((size, COLUMNS)).astype(np.float32)


def distance(found: Array, expected: Array, axis: int) -> tuple[float, float]:
    """Relative error of a sketch in all, and of its worst row (axis 1) or column (axis 0).

    A row that is all zero on both sides has no error; NaN is as far as can be.
    """
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        difference = np.linalg.norm(found - expected, axis=axis)
        size = np.linalg.norm(expected, axis=axis)
        whole = float(np.linalg.norm(difference) / max(float(np.linalg.norm(size)), 1e-30))
        floor = 1e-3 * float(np.sqrt(np.mean(size**2))) + 1e-30
        worst = float(np.max(difference / np.maximum(size, floor), initial=0.0))
    return (min(whole, _FAR), min(worst, _FAR)) if np.isfinite([whole, worst]).all() else (_FAR, _FAR)


def scale_of(path: Path, tensors: dict[str, Tensor], module: str) -> Array | None:
    """The weight scale of a quantized module, float32 [o, 1]; V1's static linears have it in deq_scale."""
    if tensor := tensors.get(f"{module}.weight_scale"):
        return read_tensor(path, tensor).astype(np.float32).reshape(-1, 1)
    deq, inp = tensors.get(f"{module}.deq_scale"), tensors.get(f"{module}.input_scale")
    if deq is None or inp is None:
        return None
    values = read_tensor(path, deq)
    if deq.dtype == "I64":  # the bits of a float32
        values = values.astype(np.uint32).view(np.float32)
    step = np.float32(read_tensor(path, inp).reshape(-1)[0])
    scale: Array = values.astype(np.float32) / step
    return scale.reshape(-1, 1)
