"""What rotation, smoothing and the kind of activation scales cost in quality, on a real language model.

    make study          all cells, into benchmarks/study/results; continues where it was interrupted
    .venv-quantize/bin/python benchmarks/study/study.py MODEL OUT [--only CELL ...] [--prompts N]

A cell is one way to quantize: engine streaming with `exact: false`, from the same model and prompts. Each is
evaluated in plain.py, which shares no code with the engine, against the BF16 model computed in float32:

    KL      of the next token's distribution, BF16 from quantized, nats per token: the mean, and its 95 %
            interval by resampling prompts (tokens of one prompt are not independent)
    top-1   share of tokens where both have the same likeliest next token
    ratio   perplexity relative to BF16's

Held out are two sets of English prompts that no cell has seen: those of the calibration and of the
anti-outlier set beyond the first N, which calibrate and smooth. One JSON per cell lies in OUT; a cell that
has one is not done again. `--table` prints the table of what is there, in Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SETS = {"A": ROOT / "calib_data" / "calibration.json", "B": ROOT / "calib_data" / "anti_outlier.json"}
BLOCK, ENGLISH = 10, 5
"""The prompts come in blocks of ten, of which the first five are English (calib_data/README.md)."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Cell:
    """One way to quantize.

    Attributes:
        smooth: msmodelslim's processor, or `none`.
        attention: `static` (W8A8) or `dynamic` (W8A8_DYNAMIC); the MLP is always dynamic.
        weights: msmodelslim's method for the scales of weights.
    """

    rotate: bool
    smooth: str
    attention: str
    weights: str = "minmax"

    @property
    def name(self) -> str:
        parts = ["rotated" if self.rotate else "plain", self.smooth.partition("_")[0], self.attention]
        return "-".join(parts + ([self.weights] if self.weights != "minmax" else []))


CELLS = [
    *(
        Cell(rotate, smooth, attention)
        for smooth in ("none", "iter_smooth", "flex_smooth_quant")
        for rotate in (False, True)
        for attention in ("static", "dynamic")
    ),
    Cell(True, "none", "static", "ssz"),
]


def main() -> None:
    """Do the cells that have no result yet, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", metavar="CELL", help=", ".join(cell.name for cell in CELLS))
    parser.add_argument("--prompts", type=int, default=BLOCK, help="that calibrate and smooth, of each set")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    given = parser.parse_args()
    given.model, given.out = given.model.resolve(), given.out.resolve()  # the worker runs elsewhere
    given.out.mkdir(parents=True, exist_ok=True)
    for cell in CELLS if not given.table else []:
        if (given.only and cell.name not in given.only) or (given.out / f"{cell.name}.json").exists():
            continue
        result = {**asdict(cell), "prompts": given.prompts, **run(cell, given)}
        partial = given.out / f"{cell.name}.tmp"
        partial.write_text(json.dumps(result, indent=1) + "\n")
        partial.replace(given.out / f"{cell.name}.json")
        print(f"{cell.name}: {result['cpu_seconds']} CPU s", flush=True)
    print(table(given.out))


# -- a cell ----------------------------------------------------------------------------------------


def run(cell: Cell, given: argparse.Namespace) -> dict[str, Any]:
    """Quantize and evaluate; the checkpoint is removed again."""
    folder = given.out / "work" / cell.name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "checkpoint").mkdir(parents=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    quantize(cell, given, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    size = sum(path.stat().st_size for path in (folder / "checkpoint").glob("*.safetensors"))
    figures = {
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(spent, 1),
        "bytes": size,
        "sets": evaluate(given.model, folder / "checkpoint", given),
    }
    shutil.rmtree(folder)
    return figures


def quantize(cell: Cell, given: argparse.Namespace, folder: Path) -> None:
    """The engine's worker, as the quantize stage starts it."""
    from quantpipe.quantize.spec import ADAPTERS, build_spec
    from quantpipe.quantize.worker.protocol import Job

    datasets = {}
    for name, path in SETS.items():
        datasets[name] = folder / f"{name}.json"
        datasets[name].write_text(json.dumps(json.loads(path.read_text("utf-8"))[: given.prompts]))
        datasets[name].chmod(0o600)
    section = SimpleNamespace(
        rotate=cell.rotate, anti_outlier=SimpleNamespace(method=cell.smooth), part_size=1, overrides=()
    )
    spec = build_spec(section, datasets["A"])  # type: ignore[arg-type]
    attention, mlp = (part["qconfig"] for part in spec["process"][-1]["configs"])
    if cell.attention == "dynamic":
        attention["act"] = dict(mlp["act"])
    for part in (attention, mlp):
        part["weight"]["method"] = cell.weights
    architecture = json.loads((given.model / "config.json").read_text())["architectures"][0]
    job = Job(
        snapshot=str(given.model),
        output=str(folder / "checkpoint"),
        adapter=ADAPTERS[architecture],
        spec=spec,
        device="cpu",
        device_indices=None,
        trust_remote_code=False,
        engine="streaming",
        exact=False,
        state=str(folder / "state"),
        smoothing_dataset=str(datasets["B"]) if cell.smooth != "none" else None,
    )
    job.write(folder / "job.json")
    worker = ROOT / "quantpipe" / "quantize" / "worker" / "__main__.py"
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads), "OMP_WAIT_POLICY": "passive"}
    with (folder / "log").open("wb") as log, (folder / "events").open("wb") as events:
        command = [sys.executable, str(worker), str(folder / "job.json"), str(events.fileno())]
        descriptors = (events.fileno(),)
        done = subprocess.run(
            command, env=environment, stdout=log, stderr=log, pass_fds=descriptors, cwd=folder
        )
    if done.returncode:
        raise SystemExit(f"{cell.name} failed:\n{(folder / 'log').read_text()[-3000:]}")


# -- its quality -----------------------------------------------------------------------------------


def evaluate(model: Path, checkpoint: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The figures of both held-out sets."""
    import torch
    from plain import Plain

    torch.set_num_threads(given.threads)
    quantized, found = Plain(checkpoint), {}
    for name, prompts in held_out(model, given.prompts).items():
        rows = []
        for number, tokens in enumerate(prompts):
            ours = torch.log_softmax(quantized.logits(tokens), -1)
            theirs = reference(model, given.out / "work" / f"reference-{name}-{number}.pt", tokens)
            following = torch.tensor(tokens[1:])[:, None]
            rows.append(
                {
                    "tokens": len(tokens),
                    "kl": float((theirs.exp() * (theirs - ours)).sum()),
                    "top1": int((theirs.argmax(-1) == ours.argmax(-1)).sum()),
                    "nll_bf16": -float(theirs[:-1].gather(1, following).sum()),
                    "nll": -float(ours[:-1].gather(1, following).sum()),
                }
            )
        found[name] = {**summary(rows), "by_prompt": rows}
    return found


def reference(model: Path, file: Path, tokens: list[int]) -> Any:
    """The log-probabilities of the BF16 model, computed once for all cells."""
    import torch
    from plain import Plain

    if not file.exists():
        if model not in _SOURCES:
            _SOURCES[model] = Plain(model)
        torch.save(torch.log_softmax(_SOURCES[model].logits(tokens), -1), file.with_suffix(".tmp"))
        file.with_suffix(".tmp").replace(file)
    return torch.load(file)


_SOURCES: dict[Path, Any] = {}


def held_out(model: Path, used: int) -> dict[str, list[list[int]]]:
    """The tokens of the English prompts beyond the first `used`, by set."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    found = {}
    for name, path in SETS.items():
        texts = enumerate(json.loads(path.read_text("utf-8")))
        chosen = [text for number, text in texts if number >= used and number % BLOCK < ENGLISH]
        found[name] = [tokenizer(text)["input_ids"] for text in chosen]
    return found


def summary(rows: list[dict[str, float]]) -> dict[str, float | list[float]]:
    """Means over tokens; the interval of the mean KL by resampling prompts."""
    tokens, following = sum(row["tokens"] for row in rows), sum(row["tokens"] - 1 for row in rows)
    ends = interval([(row["kl"], row["tokens"]) for row in rows])
    change = sum(row["nll"] - row["nll_bf16"] for row in rows) / following
    return {
        "tokens": tokens,
        "kl": round(sum(row["kl"] for row in rows) / tokens, 5),
        "kl_95": [round(end, 5) for end in ends],
        "top1": round(sum(row["top1"] for row in rows) / tokens, 4),
        "perplexity_bf16": round(math.exp(sum(row["nll_bf16"] for row in rows) / following), 3),
        "perplexity_ratio": round(math.exp(change), 4),
    }


# -- the table -------------------------------------------------------------------------------------


def table(out: Path) -> str:
    """All results as a Markdown table, best first, with the difference in KL to the best cell.

    The difference is paired, prompt by prompt: much of the spread of KL is the prompts' own.
    """
    results = {path.stem: json.loads(path.read_text()) for path in out.glob("*.json")}
    if not results:
        return "no results yet"
    rows = {
        name: [row for part in value["sets"].values() for row in part["by_prompt"]]
        for name, value in results.items()
    }
    kl = {name: sum(r["kl"] for r in each) / sum(r["tokens"] for r in each) for name, each in rows.items()}
    best = min(kl, key=lambda name: kl[name])
    lines = [
        "| cell | KL, set A | KL, set B | KL above the best | top-1 | perplexity | CPU s | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(kl, key=lambda name: kl[name]):
        value, sets = results[name], results[name]["sets"]
        each = [f"{s['kl']:.4f} ({s['kl_95'][0]:.4f} to {s['kl_95'][1]:.4f})" for s in sets.values()]
        above = difference(rows[name], rows[best]) if name != best else "the best"
        top1 = " ".join(f"{s['top1']:.3f}" for s in sets.values())
        ratio = " ".join(f"{s['perplexity_ratio']:.3f}" for s in sets.values())
        figures = f"{value['cpu_seconds']:.0f} | {value['bytes'] / 1e6:.0f}"
        lines.append(f"| {name} | {each[0]} | {each[1]} | {above} | {top1} | {ratio} | {figures} |")
    return "\n".join(lines)


def difference(rows: list[dict[str, float]], best: list[dict[str, float]]) -> str:
    """The mean of KL - KL of the best, per token, with its 95 % interval."""
    above = [(a["kl"] - b["kl"], a["tokens"]) for a, b in zip(rows, best, strict=True)]
    low, high = interval(above)
    return f"{per_token(above):+.4f} ({low:+.4f} to {high:+.4f})"


# -- statistics ------------------------------------------------------------------------------------


def per_token(prompts: list[tuple[float, float]]) -> float:
    """The mean over the tokens of all prompts, given the sum and the number of tokens of each prompt."""
    return sum(total for total, _ in prompts) / sum(tokens for _, tokens in prompts)


def interval(prompts: list[tuple[float, float]]) -> list[float]:
    """Both ends of the 95 % interval of `per_token`, by resampling prompts."""
    chosen = random.Random(0)
    means = sorted(per_token(chosen.choices(prompts, k=len(prompts))) for _ in range(RESAMPLES))
    return [means[int(RESAMPLES * share)] for share in (0.025, 0.975)]


if __name__ == "__main__":
    main()
