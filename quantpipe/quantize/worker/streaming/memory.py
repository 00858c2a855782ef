"""Memory that is used again: for the weights of a layer, and for intermediate results."""

from __future__ import annotations

import contextlib
import math
import mmap
import weakref
from collections.abc import Sequence

import numpy as np
import torch

_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_CPU = torch.device("cpu")


class PagePool:
    """Memory for groups of tensors, used again as soon as no tensor lies in it any more.

    Not from the C library's heap, which would be fragmented after a few layers. The system clears new pages
    before it hands them out, and that takes longer than reading a layer into pages that are present.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[mmap.mmap, weakref.ref[np.ndarray]]] = []

    def take(self, size: int) -> np.ndarray:
        """At least `size` bytes, reserved as long as a tensor made of them by torch.from_numpy lives."""
        fitting = [pair for pair in self._blocks if pair[1]() is None and len(pair[0]) >= size]
        if fitting:
            found = min(fitting, key=lambda pair: len(pair[0]))
            self._blocks.remove(found)
            block = found[0]
        else:  # what is free is too small: it is given back first
            self._blocks = [pair for pair in self._blocks if pair[1]() is not None]
            block = mmap.mmap(-1, max(size, 1), flags=_PRIVATE)
        with contextlib.suppress(OSError, AttributeError):  # pages of 2 MiB where the system has them
            block.madvise(mmap.MADV_HUGEPAGE)
        values = np.frombuffer(block, dtype=np.uint8)
        self._blocks += [(block, weakref.ref(values))]
        return values


class Buffers:
    """Memory for intermediate results, by name: allocating it anew takes as long as the arithmetic."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype, torch.device], torch.Tensor] = {}

    def take(
        self,
        name: str,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device = _CPU,
    ) -> torch.Tensor:
        """An uninitialized tensor; it is overwritten by the next one of this name, type and device."""
        key, size = (name, dtype, device), math.prod(shape)
        if key not in self._kept or self._kept[key].numel() < size:
            self._kept.pop(key, None)  # before the larger one is allocated
            self._kept[key] = torch.empty(size, dtype=dtype, device=device)
        return self._kept[key][:size].view(*shape)

    def clear(self) -> None:
        """Free all of it."""
        self._kept.clear()
