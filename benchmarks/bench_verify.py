"""How fast the checks are, each measured with its lower bound in one run.

    .venv/bin/python benchmarks/bench_verify.py [--size GB] [--threads N] [--rounds N] [--folder DIR]

1. A deep look (every value measured, every file hashed) at a synthetic W8A8 checkpoint of --size GB, with the
   widths of Qwen3-30B-A3B, against plain hashlib over the same files with as many threads, alternating, page
   cache warm. Target: 1.5 x. The ratio of CPU times is reported too: it is valid on a busy machine as well.
2. The checks that need headers only, on a checkpoint with the names and shapes of Qwen3-235B-A22B (110,641
   tensors in 56 sparse shards), in a process of its own. Target: 8 s, 500 MB.

Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from quantpipe.checkpoint.dims import Dims, read_dims
from quantpipe.checkpoint.modules import Module, modules, specs
from quantpipe.checkpoint.safetensors import DTYPE_BYTES
from quantpipe.store import manifest
from quantpipe.verify.verify import verify_checkpoint

GB = 10**9
RECORDED = Path(__file__).parents[1] / "tests/helpers/qwen3-235b-a22b.json"
QWEN3_235B: dict[str, Any] = json.loads(RECORDED.read_text("utf-8"))
QWEN3_30B = {
    **QWEN3_235B,
    "hidden_size": 2048,
    "num_attention_heads": 32,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
}
ENDS_BYTES = 2 * 2 * 151936 * 2048
LAYER_BYTES = 128 * 3 * 2048 * 768 + 20_000_000
SHARD_BYTES = 4 << 30


def kind_of(module: Module) -> str:
    """The type that W8A8-rot gives a module."""
    return {"attention": "W8A8", "expert": "W8A8_DYNAMIC"}.get(module.kind, "FLOAT")


def wanted(dims: Dims) -> Iterator[tuple[str, str, tuple[int, ...], Module]]:
    """Name, dtype, shape and module of every tensor."""
    for module in modules(dims):
        for suffix, spec in (specs(module, kind_of(module), dims.dtype, static_scales=False) or {}).items():
            dtype = "F32" if "F32" in spec.dtypes else min(spec.dtypes)
            yield f"{module.name}.{suffix}", dtype, spec.shape or (), module


def shards(dims: Dims, limit: int) -> Iterator[list[tuple[str, str, tuple[int, ...], Module]]]:
    """The tensors in shards of at most `limit` bytes."""
    current: list[tuple[str, str, tuple[int, ...], Module]] = []
    size = 0
    for item in wanted(dims):
        bytes_ = int(np.prod(item[2])) * DTYPE_BYTES[item[1]]
        if current and size + bytes_ > limit:
            yield current
            current, size = [], 0
        current.append(item)
        size += bytes_
    yield current


def values(dims: Dims, items: list[Any], block: np.ndarray[Any, Any]) -> Iterator[bytes]:
    """Bytes that pass the checks: random weights, one scale, and the quant_bias that belongs to them."""
    sums: dict[str, np.ndarray[Any, Any]] = {}
    for name, dtype, shape, module in items:
        suffix = name.rpartition(".")[2]
        size = int(np.prod(shape))
        if dtype == "I8":
            data = np.resize(block, size).astype(np.int8)
            sums[module.name] = data.reshape(shape).sum(axis=1, dtype=np.int64)
            yield data.tobytes()
        elif dtype == "BF16":
            one = np.uint16(0x3F80)
            ramp = np.resize(np.arange(0x3C00, 0x3E00, dtype=np.uint16), size)
            yield (np.full(size, one) if module.kind == "norm" else ramp).tobytes()
        elif suffix == "quant_bias":
            yield (-3 * sums[module.name]).astype(np.int32).tobytes()
        else:
            value = {"input_offset": 3.0, "weight_offset": 0.0, "deq_scale": 0.0002}.get(suffix, 0.01)
            yield np.full(size, value, np.float32).tobytes()


def build(folder: Path, config: dict[str, Any], *, limit: int, sparse: bool) -> None:
    """Write a checkpoint; a sparse one has true headers and holes for values."""
    folder.mkdir(parents=True)
    dims = read_dims(config)
    block = np.clip(np.random.default_rng(0).normal(0, 30, 1 << 22), -127, 127).astype(np.int8)
    description: dict[str, Any] = {"model_quant_type": "W8A8", "version": "1.0.0"}
    for number, items in enumerate(shards(dims, limit), 1):
        header: dict[str, Any] = {}
        position = 0
        order = sorted(items, key=lambda item: item[0].endswith("quant_bias"))
        for name, dtype, shape, module in order:
            end = position + int(np.prod(shape)) * DTYPE_BYTES[dtype]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
            position = end
            description[name] = kind_of(module)
        raw = json.dumps(header).encode()
        with (folder / f"quant_model_weights-{number:05d}.safetensors").open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            if sparse:
                file.truncate(8 + len(raw) + position)
            else:
                file.writelines(values(dims, order, block))
    (folder / "quant_model_description.json").write_text(json.dumps(description))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x"}')


def timed(work: Any) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def bench_deep(folder: Path, size: float, threads: int, rounds: int) -> dict[str, Any]:
    """Deep look and plain hashing, alternating."""
    layers = max(1, round((size * GB - ENDS_BYTES) / LAYER_BYTES))
    checkpoint = folder / "qwen3-30b"
    build(checkpoint, {**QWEN3_30B, "num_hidden_layers": layers}, limit=SHARD_BYTES // 8, sparse=False)
    content = manifest.build(checkpoint, jobs=threads)  # also warms the page cache
    files = sorted(checkpoint.iterdir(), key=lambda path: -path.stat().st_size)

    def plain() -> None:
        with ThreadPoolExecutor(max_workers=threads) as pool:
            list(pool.map(manifest.hash_file, files))

    def deep() -> None:
        report = verify_checkpoint(checkpoint, deep=True, jobs=threads, manifest=content)
        assert report.ok, report.lines()

    pairs = [(timed(plain), timed(deep)) for _ in range(rounds)]
    return {
        "bytes": content.total_bytes,
        "hashlib_seconds": [round(first[0], 2) for first, _ in pairs],
        "deep_seconds": [round(second[0], 2) for _, second in pairs],
        "ratio": round(median(second[0] / first[0] for first, second in pairs), 3),
        "cpu_ratio": round(median(second[1] / first[1] for first, second in pairs), 3),
        "target_ratio": 1.5,
    }


def headers_only(checkpoint: Path) -> None:
    """In a process of its own: the checks, their time and the largest memory."""
    start = time.perf_counter()
    report = verify_checkpoint(checkpoint)
    seconds = time.perf_counter() - start
    # Not ru_maxrss: a child inherits that of the process that forked it.
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    peak = int(line.split()[1]) * 1024
    value = {
        "seconds": round(seconds, 2),
        "peak_bytes": peak,
        "findings": [f.line() for f in report.findings],
    }
    print(json.dumps({**value, **{key: report.figures[key] for key in ("tensors", "shards", "bytes")}}))


def bench_headers(folder: Path, rounds: int) -> dict[str, Any]:
    """The header-only checks on the shapes of Qwen3-235B; the floor is json.loads of the same JSON."""
    checkpoint = folder / "qwen3-235b"
    build(checkpoint, QWEN3_235B, limit=SHARD_BYTES, sparse=True)
    command = [sys.executable, __file__, "--headers-of", str(checkpoint)]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(rounds)
    ]

    def floor() -> None:
        json.loads((checkpoint / "quant_model_description.json").read_bytes())
        for path in checkpoint.glob("*.safetensors"):
            with path.open("rb") as file:
                json.loads(file.read(int.from_bytes(file.read(8), "little")))

    return {
        **runs[0],
        "seconds": median(run["seconds"] for run in runs),
        "peak_bytes": max(run["peak_bytes"] for run in runs),
        "json_floor_seconds": round(timed(floor)[0], 2),
        "target_seconds": 8,
        "target_bytes": 500_000_000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=float, default=4.8, help="GB of the deep checkpoint")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to build; a temporary one by default")
    parser.add_argument("--headers-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.headers_of:
        headers_only(options.headers_of)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = {
            "threads": options.threads,
            "deep": bench_deep(Path(folder), options.size, options.threads, options.rounds),
            "headers": bench_headers(Path(folder), options.rounds),
        }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
