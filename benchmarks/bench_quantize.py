"""Speed of engine `streaming` compared with engine `stock`, and the memory of each.

    .venv/bin/python benchmarks/bench_quantize.py [--layers 4] [--pairs 3] [--threads 2] [--quick]
    .venv/bin/python benchmarks/bench_quantize.py --memory [--layers 24]
    .venv/bin/python benchmarks/bench_quantize.py --quality [--layers 4] [--pairs 3] [--prompts 8]

Both engines work at the same synthetic Qwen3-MoE (seeded, made on the spot: hidden 1024, 64 experts of 512,
rotation and flex smoothing, 8 prompts), one after the other, --pairs times. Reported for each: wall and CPU
seconds without imports, peak RSS, how many tensors differ from stock's, how far the weights are from the BF16
model's, and, from one run more of each with products counted, their floating point operations and the seconds
inside and outside of them. Floors are those operations at the speed of a plain product on this machine, and
the bytes read and written at that of a plain copy with SHA-256; each one's share of the seconds is reported.
--quick adds `exact: false`; --uncounted leaves the runs with counted products out.

--memory takes one prompt and no smoothing: peak RSS at 4 and at --layers layers, then the deeper model with
less memory than its weights (RLIMIT_DATA), by either engine.

--quality compares engine `streaming` with itself, in pairs: without measuring the quality, and with it on
the shipped held-out set. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "quantpipe" / "assets" / "tiny-qwen3-moe"
TICKS = os.sysconf("SC_CLK_TCK")


# -- in the worker's interpreter ----------------------------------------------------------------------


def make_model(folder: Path, layers: int) -> None:
    """A random bf16 model, shard by shard."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    config = Qwen3MoeConfig(
        vocab_size=768,
        hidden_size=1024,
        intermediate_size=2048,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        head_dim=64,
        moe_intermediate_size=512,
        num_experts=64,
        num_experts_per_tok=8,
        norm_topk_prob=True,
        tie_word_embeddings=False,
        torch_dtype="bfloat16",
        eos_token_id=2,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder, max_shard_size="500MB")
    for file in TINY.iterdir():
        if "token" in file.name:
            (folder / file.name).write_bytes(file.read_bytes())


def count_products() -> dict[str, float]:
    """Patch torch so that matrix products are counted and timed; the numbers grow while the worker works."""
    import torch

    seen = {"seconds": 0.0, "operations": 0.0}

    def counted(function: Any, operations: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **options)
            seen["seconds"] += time.perf_counter() - began
            seen["operations"] += operations(arguments, result)
            return result

        return call

    def of_product(arguments: Any, result: Any) -> float:
        return 2.0 * result.numel() * arguments[0].shape[-1]

    def of_attention(arguments: Any, result: Any) -> float:
        return 4.0 * result.numel() * arguments[1].shape[-2]

    functional = torch.nn.functional
    torch.matmul = counted(torch.matmul, of_product)
    functional.linear = counted(functional.linear, of_product)
    functional.scaled_dot_product_attention = counted(functional.scaled_dot_product_attention, of_attention)
    return seen


def worker(job: Path, descriptor: int, products: bool) -> int:
    """The quantize worker, with products counted on request."""
    path = ROOT / "quantpipe" / "quantize" / "worker" / "__main__.py"
    spec = importlib.util.spec_from_file_location("worker_entry", path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    from quantpipe.quantize.worker.main import main

    seen = count_products() if products else {}
    status = main(job, descriptor)
    if products:
        os.write(descriptor, (json.dumps({"event": "products", **seen}) + "\n").encode())
    return status


def speed(threads: int) -> dict[str, float]:
    """Operations a second of plain products of 2048 by 2048 matrices."""
    import torch

    torch.set_num_threads(threads)
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.randn(2048, 2048).to(dtype)
        seconds = []
        for _ in range(6):
            began = time.perf_counter()
            torch.matmul(a, a)
            seconds.append(time.perf_counter() - began)
        found[name] = 2 * 2048**3 / min(seconds)
    return found


# -- in quantpipe's own ------------------------------------------------------------------------------


def run(
    python: Path, folder: Path, snapshot: Path, engine: str, options: argparse.Namespace, **how: Any
) -> dict[str, Any]:
    """One run of the worker; seconds and CPU seconds count from the end of the imports."""
    exact, memory = how.get("exact", True), how.get("memory")
    out = folder / f"{engine}{'' if exact else '-quick'}{'-measured' if how.get('measured') else ''}"
    subprocess.run(["rm", "-rf", str(out)], check=True)
    (out / "checkpoint").mkdir(parents=True)
    job = write_job(out, snapshot, engine, options, exact, bool(how.get("measured")))
    reading, writing = os.pipe()
    arguments = ["--worker", str(job), str(writing), *(["--products"] if how.get("products") else [])]
    with (out / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [str(python), __file__, *arguments],
            pass_fds=[writing],
            stdout=log,
            stderr=log,
            env=environment(options.threads),
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_DATA, (memory, memory)))
            if memory
            else None,
        )
    os.close(writing)
    figures: dict[str, Any] = {"layers": 0}
    began, cpu = 0.0, 0.0
    with os.fdopen(reading) as pipe:
        for line in pipe:
            event = json.loads(line)
            if event["event"] == "phase" and event["name"] in ("load", "quantize") and not began:
                began, cpu = time.monotonic(), cpu_of(process.pid)
            elif event["event"] == "layer":
                figures["layers"] = event["index"]
            elif event["event"] == "failed":
                figures["failed"] = f"{event['type']}: {event['message']}"[:200]
            elif event["event"] == "finished":
                figures |= {"seconds": time.monotonic() - began, "cpu": cpu_of(process.pid) - cpu}
            elif event["event"] == "products":
                figures["products"] = {key: event[key] for key in ("seconds", "operations")}
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {**figures, "status": process.returncode, "peak_rss": usage.ru_maxrss * 1024, "out": str(out)}


def write_job(
    out: Path, snapshot: Path, engine: str, options: argparse.Namespace, exact: bool, measured: bool
) -> Path:
    """The job file, from a recipe's quantize section."""
    from quantpipe.quantize.spec import build_spec
    from quantpipe.quantize.worker.protocol import Job
    from quantpipe.recipe.quantize import Quantize

    dataset = out / "calibration.json"
    prompts = json.loads((ROOT / "calib_data" / "calibration.json").read_text("utf-8"))
    dataset.write_text(json.dumps(prompts[: options.prompts]))
    dataset.chmod(0o600)
    method = "none" if options.memory else "flex_smooth_quant"
    section = Quantize.model_validate(
        {
            "calibration": {"dataset": dataset},
            "anti_outlier": {"method": method, "dataset": dataset},
            "device": "cpu",
        }
    )
    job = Job(
        snapshot=str(snapshot),
        output=str(out / "checkpoint"),
        adapter="Qwen3-235B",
        spec=build_spec(section, dataset),
        device="cpu",
        device_indices=None,
        trust_remote_code=False,
        engine=engine,
        exact=exact,
        state=str(out / "state"),
        held_out=copy_of_held_out(out) if measured else None,
    )
    job.write(out / "job.json")
    return out / "job.json"


def copy_of_held_out(out: Path) -> str:
    """The shipped held-out set, where msmodelslim may read it."""
    path = out / "held_out.json"
    path.write_bytes((ROOT / "calib_data" / "held_out.json").read_bytes())
    path.chmod(0o600)
    return str(path)


def environment(threads: int) -> dict[str, str]:
    """A fixed number of threads, and no requests to a hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    fixed = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    fixed |= {"OMP_DYNAMIC": "FALSE", "MKL_DYNAMIC": "FALSE", "HF_HUB_OFFLINE": "1"}
    return {**kept, **fixed, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}


def cpu_of(process: int) -> float:
    """CPU seconds of a process so far (proc(5) stat, fields 14 and 15)."""
    fields = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def tensors(folder: Path) -> dict[str, str]:
    """Type, shape and hash of every tensor, by name."""
    found = {}
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    begin, end = entry["data_offsets"]
                    stream.seek(8 + length + begin)
                    digest = hashlib.sha256(stream.read(end - begin)).hexdigest()
                    found[name] = f"{entry['dtype']} {entry['shape']} {digest}"
    return found


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def copy_seconds(snapshot: Path, checkpoint: Path, folder: Path) -> float:
    """Seconds to read all of the model, and to write, hash and flush as many bytes as the checkpoint has."""
    began = time.perf_counter()
    for file in snapshot.glob("*.safetensors"):
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 22):
                pass
    reading = time.perf_counter() - began
    for number, file in enumerate(checkpoint.glob("*.safetensors")):
        data = file.read_bytes()
        began = time.perf_counter()
        with (folder / f"copy-{number}").open("wb", buffering=0) as stream:
            hashlib.sha256(data)
            stream.write(data)
            os.fsync(stream.fileno())
        reading += time.perf_counter() - began
        (folder / f"copy-{number}").unlink()
    return reading


def error_of(checkpoint: Path, snapshot: Path) -> float:
    """The mean relative error of all modules against the BF16 model, rotation and smoothing undone."""
    from quantpipe.checkpoint.checkpoint import open_checkpoint
    from quantpipe.verify.fidelity.compare import compare as compare_with
    from quantpipe.verify.model import described_model

    model = described_model(open_checkpoint(checkpoint), "0.23.0")
    assert model is not None
    found = compare_with(model, snapshot, jobs=2)
    return sum(item.error for item in found.errors) / len(found.errors)


def compare(python: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Pairs of runs, then one of each with products counted."""
    snapshot = folder / "model"
    prepare(python, snapshot, options.layers)
    modes: dict[str, dict[str, Any]] = {"stock": {"engine": "stock"}, "exact": {"engine": "streaming"}}
    if options.quick:
        modes["quick"] = {"engine": "streaming", "exact": False}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in modes}
    for _ in range(options.pairs):
        for name, mode in modes.items():
            runs[name].append(run(python, folder, snapshot, options=options, **mode))
            print(f"{name}: {json.dumps(runs[name][-1])}", file=sys.stderr)
    plain = json.loads(in_worker(python, options.threads, "--speed", str(options.threads)))
    out = {name: Path(runs[name][-1]["out"]) / "checkpoint" for name in modes}
    stock = tensors(out["stock"])
    copying = copy_seconds(snapshot, out["exact"], folder)
    report: dict[str, Any] = {
        "model_bytes": size_of(snapshot),
        "output_bytes": size_of(out["exact"]),
        "floor_seconds_of_bytes": copying,
        "plain_products_per_second": plain,
    }
    for name in modes:
        ours = tensors(out[name])
        seconds = [each["seconds"] for each in runs[name]]
        report[name] = {
            "seconds": median(seconds),
            "seconds_of_each": [round(each, 2) for each in seconds],
            "cpu": median(each["cpu"] for each in runs[name]),
            "peak_rss": max(each["peak_rss"] for each in runs[name]),
            "tensors_that_differ": sum(stock[key] != ours.get(key) for key in stock),
            "error_against_bf16": error_of(out[name], snapshot),
            "share_of_floor_of_bytes": round(copying / median(seconds), 3),
        }
    for name in modes.keys() - {"stock"}:
        for what in ("seconds", "cpu"):
            pairs = zip(runs["stock"], runs[name], strict=True)
            ratios = sorted(a[what] / b[what] for a, b in pairs)
            report[name][f"stock_over_it_{what}"] = [round(each, 2) for each in ratios]
    if not options.uncounted:
        count(python, folder, snapshot, options, modes, report)
    return report


def count(
    python: Path,
    folder: Path,
    snapshot: Path,
    options: argparse.Namespace,
    modes: dict[str, dict[str, Any]],
    report: dict[str, Any],
) -> None:
    """One run more of each with products counted, into the report."""
    fastest = max(report["plain_products_per_second"].values())
    for name, mode in modes.items():
        done = run(python, folder, snapshot, options=options, products=True, **mode)
        products = done["products"]
        floor = products["operations"] / fastest
        report[name] |= {
            "operations": products["operations"],
            "seconds_in_products": products["seconds"],
            "seconds_outside": done["seconds"] - products["seconds"],
            "floor_seconds_of_operations": floor,
            "share_of_floor_of_operations": round(floor / report[name]["seconds"], 3),
        }
        outside = report["stock"]["seconds_outside"] / report[name]["seconds_outside"]
        report[name]["stock_over_it_seconds_outside"] = round(outside, 2)


def quality(python: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What measuring costs: pairs of runs, without and with it."""
    snapshot = folder / "model"
    prepare(python, snapshot, options.layers)
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "measured": []}
    for _ in range(options.pairs):
        for name, found in runs.items():
            measured, exact = name == "measured", not options.quick
            found.append(run(python, folder, snapshot, "streaming", options, measured=measured, exact=exact))
            print(f"{name}: {json.dumps(found[-1])}", file=sys.stderr)
    pairs = list(zip(runs["plain"], runs["measured"], strict=True))
    report: dict[str, Any] = {
        f"more_{what}": sorted(round(b[what] / a[what] - 1, 3) for a, b in pairs)
        for what in ("cpu", "seconds")
    }
    for name, found in runs.items():
        report[name] = {what: median(each[what] for each in found) for what in ("cpu", "seconds", "peak_rss")}
    before, after = (tensors(Path(runs[name][-1]["out"]) / "checkpoint") for name in runs)
    report["tensors_that_differ"] = sum(before[key] != after.get(key) for key in before)
    written = json.loads((Path(runs["measured"][-1]["out"]) / "state" / "quality.json").read_text("utf-8"))
    report["tokens"] = written["summary"]["tokens"]
    return report


def memory(python: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Peak RSS by depth, and both engines with less memory than the model has bytes."""
    report: dict[str, Any] = {}
    options.prompts = 1
    for layers in (4, options.layers):
        snapshot = folder / f"model-{layers}"
        prepare(python, snapshot, layers)
        done = run(python, folder, snapshot, "streaming", options)
        report[f"peak_rss_{layers}_layers"] = done["peak_rss"]
        report[f"model_bytes_{layers}_layers"] = size_of(snapshot)
    layer = size_of(folder / "model-4") // 4
    report["target"] = 10**9 + 4 * layer
    report["growth"] = report[f"peak_rss_{options.layers}_layers"] / report["peak_rss_4_layers"]
    limit = report["target"] + 2 * 10**8  # RLIMIT_DATA also counts what is allocated and never touched
    report["limit"] = limit
    for engine in ("streaming", "stock"):
        snapshot = folder / f"model-{options.layers}"
        done = run(python, folder, snapshot, engine, options, memory=limit)
        report[f"{engine}_limited"] = {key: done.get(key) for key in ("status", "failed", "layers")}
    return report


def prepare(python: Path, snapshot: Path, layers: int) -> None:
    if not (snapshot / "config.json").is_file():
        in_worker(python, 2, "--make", str(snapshot), str(layers))


def in_worker(python: Path, threads: int, *arguments: str) -> str:
    done = subprocess.run(
        [str(python), __file__, *arguments],
        env=environment(threads),
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip().rpartition("\n")[2]


def main() -> int:
    """Measure, print JSON."""
    if sys.argv[1:2] == ["--worker"]:
        return worker(Path(sys.argv[2]), int(sys.argv[3]), "--products" in sys.argv)
    if sys.argv[1:2] == ["--make"]:
        make_model(Path(sys.argv[2]), int(sys.argv[3]))
        return 0
    if sys.argv[1:2] == ["--speed"]:
        print(json.dumps(speed(int(sys.argv[2]))))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--uncounted", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    python = Path(os.environ.get("QUANTPIPE_QUANTIZE_PYTHON") or ROOT / ".venv-quantize/bin/python")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure = memory if options.memory else quality if options.quality else compare
        print(json.dumps(measure(python, Path(folder), options), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
