"""What it costs to compare every tensor that is quantized with the hash that fetch took of it.

    .venv/bin/python benchmarks/bench_source_check.py [--layers 4] [--pairs 3] [--threads 2] [--quick]

Engine `streaming` on the synthetic model of bench_quantize.py, without hashes and with them, alternating.
Prints the seconds of each run, the ratio of the medians of wall and CPU seconds, and the floor: the seconds
of one SHA-256 over the model's bytes. --quick takes `exact: false`, where the share is largest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench_quantize import ROOT, prepare, run, size_of

from quantpipe.checkpoint.fetched import FileHashes, TensorHasher


def with_hashes(snapshot: Path, other: Path) -> float:
    """The same files with their hashes, as a fetch leaves them; the seconds of the SHA-256 of the weights."""
    other.mkdir()
    seconds = 0.0
    for path in snapshot.iterdir():
        os.link(path, other / path.name)
        content = path.read_bytes()
        began = time.monotonic()
        sha256 = hashlib.sha256(content).hexdigest()
        seconds += time.monotonic() - began if path.suffix == ".safetensors" else 0.0
        hasher = TensorHasher(path.name, len(content))
        hasher.update(content)
        FileHashes(sha256, hasher.result()).save(other, path.name)
    return seconds


def main() -> int:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    parser.set_defaults(memory=False)
    options = parser.parse_args()
    python = Path(os.environ.get("QUANTPIPE_QUANTIZE_PYTHON") or ROOT / ".venv-quantize/bin/python")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, checked = folder / "plain", folder / "checked"
        prepare(python, plain, options.layers)
        floor = with_hashes(plain, checked)
        runs: dict[str, list[dict[str, Any]]] = {"plain": [], "checked": []}
        for _ in range(options.pairs):
            for side, snapshot in (("plain", plain), ("checked", checked)):
                runs[side].append(
                    run(python, folder, snapshot, "streaming", options, exact=not options.quick)
                )
                print(f"{side}: {json.dumps(runs[side][-1])}", file=sys.stderr)
        report: dict[str, Any] = {"model_bytes": size_of(plain), "floor_seconds": round(floor, 2)}
        for what in ("seconds", "cpu"):
            found = {side: [round(each[what], 2) for each in done] for side, done in runs.items()}
            report[what] = {**found, "ratio": round(median(found["checked"]) / median(found["plain"]), 3)}
        print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
