"""Small models, quantized by either engine in forked children of this interpreter."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal as signals
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config, Qwen3MoeConfig

from quantpipe.quantize.spec import ADAPTERS, build_spec
from quantpipe.quantize.worker import main
from quantpipe.quantize.worker.protocol import EXIT_STOPPED, Job, Reporter, StoppedError
from quantpipe.store.quality import QualityReport, read_quality

if TYPE_CHECKING:
    from quantpipe.recipe.quantize import Quantize

TINY = Path(__file__).resolve().parents[3] / "quantpipe" / "assets" / "tiny-qwen3-moe"
SHORT = [
    "The sum of two and two is four.",
    "A water tank holds 480 litres, and pipe A fills it.",
    "def add(a, b):\n    return a + b\n",
    "Qu'est-ce que c'est ?",
]
HELD_OUT = ["Three prompts are held out.", "for n in range(3):\n    print(n * n)\n", "Onze, douze, treize?"]
OTHER = ["Nothing of this is in the other set: 31, 57, 1999.", "x = [i * i for i in range(10)]"]


MOE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}
DENSE: dict[str, Any] = {
    "kind": Qwen3Config,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "tie_word_embeddings": False,
}

QWEN2: dict[str, Any] = {**DENSE, "kind": Qwen2Config}
"""With head_dim, which its config.json may have: msmodelslim's map of rotations for Qwen3 reads it."""


def spec(rotate: bool = True, method: str = "flex_smooth_quant") -> dict[str, Any]:
    """A recipe's quantize section, as msmodelslim's spec without a dataset. Its own model needs pydantic."""
    section = SimpleNamespace(rotate=rotate, anti_outlier=SimpleNamespace(method=method), part_size=1)
    return build_spec(cast("Quantize", section), Path("none.json"))


def make(folder: Path, spec: dict[str, Any]) -> None:
    """Write a random bf16 model whose norms have outliers, with biases where the kind has them, and the
    tiny model's tokenizer."""

    given = dict(spec)
    shard, seed = given.pop("shard", "10GB"), given.pop("seed", 0)
    kind = given.pop("kind", Qwen3MoeConfig)
    torch.manual_seed(seed)
    config = kind(vocab_size=768, eos_token_id=2, torch_dtype="bfloat16", initializer_range=0.08, **given)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
                parameter[3 % parameter.numel()] *= 16
            if name.endswith("proj.bias"):
                parameter.normal_(0, 0.5)
    model.save_pretrained(folder, max_shard_size=shard)
    for file in TINY.iterdir():
        if "token" in file.name:
            (folder / file.name).write_bytes(file.read_bytes())


def quantize(job: dict[str, Any], threads: int, events: int) -> None:
    """The worker's engine, in this process."""

    torch.set_num_threads(threads)
    main._engine(job["engine"])(Job(**job), Reporter(events))


def in_child(
    work: Callable[[int], None],
    *,
    signal: str | None = None,
    after_event: str = "",
    after_seconds: float = 0.0,
) -> dict[str, Any]:
    """Do it in a forked child, which may be sent a signal: status, events, seconds.

    Args:
        work: gets the descriptor that events are written to.
        signal: sent once the events hold the text and the seconds are over.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        os.close(reading)
        os._exit(_status(work, writing))
    os.close(writing)
    said, began, due = b"", time.monotonic(), signal is not None
    while True:
        if select.select([reading], [], [], 0.002)[0]:
            data = os.read(reading, 1 << 16)
            if not data:
                break
            said += data
        if due and after_event.encode() in said and time.monotonic() - began >= after_seconds:
            os.kill(process, getattr(signals, str(signal)))
            due = False
    os.close(reading)
    _, status = os.waitpid(process, 0)
    events = [json.loads(line) for line in said.splitlines() if line.endswith(b"}")]
    return {
        "status": os.waitstatus_to_exitcode(status),
        "events": events,
        "seconds": time.monotonic() - began,
    }


def _status(work: Callable[[int], None], events: int) -> int:
    try:
        work(events)
    except StoppedError:
        return EXIT_STOPPED
    except BaseException as error:
        line = {"event": "failed", "type": type(error).__name__, "message": str(error)}
        os.write(events, (json.dumps(line) + "\n").encode())
        traceback.print_exc()
        return 1
    return 0


class Quantizer:
    """Makes models and quantizes them."""

    def make(self, folder: Path, **model: Any) -> Path:
        """A random model."""
        done = in_child(lambda events: make(folder, model))
        assert done["status"] == 0, done["events"]
        return folder

    def run(
        self,
        snapshot: Path,
        out: Path,
        engine: str = "streaming",
        *,
        threads: int = 1,
        prompts: list[str] = SHORT,
        smoothing: list[str] | None = None,
        exact: bool = True,
        held_out: list[str] | None = HELD_OUT,
        identity: dict[str, str] | None = None,
        adapter: str | None = None,
        process: dict[str, Any] | None = None,
        **how: Any,
    ) -> dict[str, Any]:
        """Quantize into `out/checkpoint`, with the state in `out/state`.

        Args:
            held_out: engine streaming measures its quality on them; its bits are those of stock all the same.
        """
        (out / "checkpoint").mkdir(parents=True, exist_ok=True)
        architecture = json.loads((snapshot / "config.json").read_text())["architectures"][0]
        job = {
            "snapshot": str(snapshot),
            "output": str(out / "checkpoint"),
            "adapter": adapter or ADAPTERS[architecture],
            "spec": {**(process or spec()), "dataset": dataset(out, "calibration", prompts)},
            "device": "cpu",
            "device_indices": None,
            "trust_remote_code": False,
            "engine": engine,
            "exact": exact,
            "state": str(out / "state"),
            "smoothing_dataset": dataset(out, "smoothing", smoothing) if smoothing else None,
            "held_out": dataset(out, "held_out", held_out) if held_out else None,
            "held_out_digest": json.dumps(held_out),
            "identity": identity or {},
        }
        return in_child(lambda events: quantize(job, threads, events), **how)


def dataset(folder: Path, name: str, prompts: list[str]) -> str:
    """A dataset file that msmodelslim reads."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(prompts))
    path.chmod(0o600)
    return str(path)


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Type, shape and hash of the bytes of every tensor below a directory, by name."""
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = (8 + length + offset for offset in entry["data_offsets"])
                digest = hashlib.sha256(data[begin:end]).hexdigest()
                assert name not in found
                found[name] = (entry["dtype"], tuple(entry["shape"]), digest)
    return found


def quality(out: Path) -> QualityReport:
    """What a run of `Quantizer` into this folder measured."""
    return read_quality(out / "state" / "quality.json")


def files(folder: Path) -> dict[str, str]:
    """The hash of every file below a directory, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
