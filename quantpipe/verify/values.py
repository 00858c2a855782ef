"""A deep look: every byte of every shard read once, hashed and measured while it is in the cache.

Memory is bounded by one chunk per thread and by what the checks compare across shards: the small tensors of
static linears and the norms. hashlib and numpy release the GIL on chunks of this size: shards go in parallel.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from quantpipe.checkpoint.decode import Array, decode
from quantpipe.checkpoint.safetensors import DTYPE_BYTES, Header, Tensor
from quantpipe.checkpoint.tensors import STATIC_TYPES
from quantpipe.digest import OnBytes
from quantpipe.durable import drop_cache
from quantpipe.verify.model import Model

_CHUNK = 1 << 20
_LARGEST_ROW = 16 << 20
_KEPT_ELEMENTS = 1 << 22
_SCALES = frozenset({"weight_scale", "weight_offset", "scale_bias"})
_STATIC = frozenset({"input_scale", "input_offset", "deq_scale", "quant_bias", "bias"})
_EXPONENT = {
    "BF16": ("<u2", 0x7FFF, 0x7F80),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "F32": ("<u4", 0x7FFFFFFF, 0x7F800000),
}


@dataclass(slots=True)
class Stats:
    """What was measured of one tensor.

    Attributes:
        elements: how many there are.
        zeros: of an int8 weight, how many are 0.
        saturated: of an int8 weight, how many are 127, -127 or -128.
        nonfinite: whether there is a NaN or an infinity.
        blank: whether all bits are zero, ignoring the sign.
        low, high, median: of a scale; NaN for others.
    """

    elements: int = 0
    zeros: int = 0
    saturated: int = 0
    nonfinite: bool = False
    blank: bool = True
    low: float = float("nan")
    high: float = float("nan")
    median: float = float("nan")


@dataclass
class Values:
    """What a deep look found.

    Attributes:
        stats: by tensor name.
        small: the small tensors of static linears and the norms, as float32 or integers.
        row_sums: sums over the inputs of the int8 weights of static linears, int64 [o].
        sha256: of every shard, in hex; empty when hashing was not asked for.
    """

    stats: dict[str, Stats] = field(default_factory=dict)
    small: dict[str, Array] = field(default_factory=dict)
    row_sums: dict[str, Array] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


def read_values(model: Model, *, jobs: int, hashes: bool, on_bytes: OnBytes | None = None) -> Values:
    """Read every shard once.

    Args:
        hashes: also compute the shards' SHA-256, in the same pass.
        on_bytes: called with how many more bytes were read.

    Raises:
        OSError: a shard cannot be read.
    """
    values = Values()
    static = {name for name, kind in model.types.items() if kind in STATIC_TYPES}

    def look(header: Header) -> None:
        _Reader(model.path / header.shard, header, values, static, hashes, on_bytes).run()

    largest_first = sorted(model.checkpoint.headers, key=lambda header: -header.size)
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        list(pool.map(look, largest_first))
    return values


class _Reader:
    """One shard, read from its first byte to its last."""

    def __init__(
        self,
        path: Path,
        header: Header,
        values: Values,
        static: set[str],
        hashes: bool,
        on_bytes: OnBytes | None,
    ) -> None:
        self._path = path
        self._header = header
        self._values = values
        self._static = static
        self._digest = hashlib.sha256() if hashes else None
        self._on_bytes = on_bytes
        self._buffer = bytearray(_CHUNK)
        self._scratch = np.empty(_CHUNK, np.uint8)
        self._mask = np.empty(_CHUNK, np.bool_)

    def run(self) -> None:
        """Read, hash and measure; not what has no header, since that may be a pipe, or no file at all."""
        if not self._header.parsed:
            return
        # Overflow in a cast is what a check finds out about; numpy need not warn of it.
        with self._path.open("rb", buffering=0) as file, np.errstate(all="ignore"):
            drop_cache(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            position = 0
            # The order of the bytes is known to be sound only where the header has no problem.
            for tensor in self._header.tensors if not self._header.problems else ():
                for _ in self._chunks(file, tensor.start - position, 1):
                    pass
                self._measure(file, tensor)
                position = tensor.end
            for _ in self._chunks(file, self._header.size - position, 1):
                pass
        if self._digest is not None:
            self._values.sha256[self._header.shard] = self._digest.hexdigest()

    def _chunks(self, file: Any, size: int, unit: int) -> Iterator[memoryview]:
        """The next `size` bytes in chunks that are multiples of `unit` bytes."""
        step = max(1, len(self._buffer) // unit) * unit
        if step > len(self._buffer):
            self._buffer = bytearray(step)
        view = memoryview(self._buffer)
        while size > 0:
            want = min(step, size)
            got = 0
            while got < want:
                count = file.readinto(view[got:want])
                if not count:
                    raise OSError(None, f"{self._path.name} shrank while being read")
                got += count
            chunk = view[:got]
            if self._digest is not None:
                self._digest.update(chunk)
            if self._on_bytes is not None:
                self._on_bytes(got)
            size -= got
            yield chunk

    def _measure(self, file: Any, tensor: Tensor) -> None:
        module, _, suffix = tensor.name.rpartition(".")
        stats = Stats()
        self._values.stats[tensor.name] = stats
        stats.elements = tensor.size // DTYPE_BYTES[tensor.dtype]
        if self._is_kept(module, suffix, tensor):
            self._keep(file, tensor, suffix, stats)
        elif tensor.dtype == "I8" and suffix == "weight":
            self._measure_int8(file, tensor, module, stats)
        else:
            for chunk in self._chunks(file, tensor.size, 8):
                self._measure_bits(chunk, tensor.dtype, stats)

    def _is_kept(self, module: str, suffix: str, tensor: Tensor) -> bool:
        if tensor.size > _KEPT_ELEMENTS or tensor.dtype in ("BOOL", "F64") or tensor.dtype.startswith("F8"):
            return False
        norm = suffix == "weight" and module.endswith("norm")
        return norm or suffix in _SCALES or (suffix in _STATIC and module in self._static)

    def _keep(self, file: Any, tensor: Tensor, suffix: str, stats: Stats) -> None:
        """A small tensor, whole: its range, and itself where a check compares it with others."""
        raw = b"".join(bytes(chunk) for chunk in self._chunks(file, tensor.size, 1))
        self._measure_bits(memoryview(raw), tensor.dtype, stats)
        array = decode(raw, tensor.dtype).reshape(-1)
        if suffix == "deq_scale" and tensor.dtype == "I64":
            array = array.astype(np.uint32).view(np.float32)
        module = tensor.name.rpartition(".")[0]
        if module in self._static or suffix == "weight":
            self._values.small[tensor.name] = array
        if array.size and not stats.nonfinite:
            stats.low, stats.high = float(array.min()), float(array.max())
            stats.median = float(np.median(array))

    def _measure_bits(self, chunk: memoryview, dtype: str, stats: Stats) -> None:
        if dtype not in _EXPONENT:
            stats.blank = stats.blank and not np.frombuffer(chunk, np.uint8).any()
            return
        word, magnitude, infinity = _EXPONENT[dtype]
        bits = np.frombuffer(chunk, word)
        largest = int((bits & bits.dtype.type(magnitude)).max(initial=0))
        stats.nonfinite = stats.nonfinite or largest >= infinity
        stats.blank = stats.blank and largest == 0

    def _measure_int8(self, file: Any, tensor: Tensor, module: str, stats: Stats) -> None:
        row = tensor.shape[-1] if tensor.shape else 1
        summed = module in self._static and len(tensor.shape) == 2 and 0 < row <= _LARGEST_ROW
        sums: list[Array] = []
        for chunk in self._chunks(file, tensor.size, row if summed else 1):
            data = np.frombuffer(chunk, np.uint8)
            nonzero = int(np.count_nonzero(data))
            stats.zeros += data.size - nonzero
            stats.blank = stats.blank and nonzero == 0
            stats.saturated += self._count_saturated(data)
            if summed:
                sums.append(data.view(np.int8).reshape(-1, row).sum(axis=1, dtype=np.int64))
        if summed:
            self._values.row_sums[module] = np.concatenate(sums) if sums else np.zeros(0, np.int64)

    def _count_saturated(self, data: Array) -> int:
        """127, -127 and -128 are 127, 129 and 128 as unsigned bytes: one comparison finds them all."""
        if data.size > self._scratch.size:
            self._scratch = np.empty(data.size, np.uint8)
            self._mask = np.empty(data.size, np.bool_)
        scratch, mask = self._scratch[: data.size], self._mask[: data.size]
        np.subtract(data, np.uint8(127), out=scratch)
        np.less_equal(scratch, np.uint8(2), out=mask)
        return int(np.count_nonzero(mask))
