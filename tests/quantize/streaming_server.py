"""Run by the quantize worker's interpreter: makes small models and quantizes them, each in a forked child.

One JSON command a line on standard input, one JSON answer a line on standard output. So importing torch
and msmodelslim is paid once, and a child can be killed at any moment without harm to the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
import traceback
import types
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2] / "quantpipe"


def make(folder: str, tiny: str, spec: dict[str, Any]) -> None:
    """Write a random bf16 model whose norms and embeddings have outliers, with the tiny model's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

    given = dict(spec)
    shard, seed = given.pop("shard", "10GB"), given.pop("seed", 0)
    kind = Qwen3MoeConfig if given.pop("moe", True) else Qwen3Config
    torch.manual_seed(seed)
    config = kind(vocab_size=768, eos_token_id=2, torch_dtype="bfloat16", initializer_range=0.08, **given)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
                parameter[3 % parameter.numel()] *= 16
    model.save_pretrained(folder, max_shard_size=shard)
    for file in Path(tiny).iterdir():
        if "token" in file.name:
            (Path(folder) / file.name).write_bytes(file.read_bytes())


def quantize(job: dict[str, Any], threads: int, events: int) -> None:
    """The worker's engine, in this process."""
    import torch

    from quantpipe.quantize.worker import main
    from quantpipe.quantize.worker.protocol import Job, Reporter

    torch.set_num_threads(threads)
    main._engine(job["engine"])(Job(**job), Reporter(events))


def logits(folder: str, ids: list[int]) -> list[list[float]]:
    """What a model answers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].tolist()  # type: ignore[no-any-return]


def in_child(command: dict[str, Any]) -> dict[str, Any]:
    """Do it in a forked child; kill or terminate that after some seconds or at an event, if so asked."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        os.close(reading)
        os._exit(_child(command, writing))
    os.close(writing)
    said = b""
    began, signalled = time.monotonic(), False
    while True:
        ready = _readable(reading, 0.002)
        if ready:
            data = os.read(reading, 1 << 16)
            if not data:
                break
            said += data
        if not signalled and _due(command, said, began):
            os.kill(process, getattr(signal, command["signal"]))
            signalled = True
    os.close(reading)
    _, status = os.waitpid(process, 0)
    events = [json.loads(line) for line in said.splitlines() if line.endswith(b"}")]
    return {
        "status": os.waitstatus_to_exitcode(status),
        "events": events,
        "seconds": time.monotonic() - began,
    }


def _due(command: dict[str, Any], said: bytes, began: float) -> bool:
    if "signal" not in command or command.get("after_event", "") not in said.decode("utf-8", "replace"):
        return False
    return time.monotonic() - began >= command.get("after_seconds", 0.0)


def _readable(descriptor: int, seconds: float) -> bool:
    import select

    return bool(select.select([descriptor], [], [], seconds)[0])


def _child(command: dict[str, Any], events: int) -> int:
    from quantpipe.quantize.worker.protocol import EXIT_STOPPED, StoppedError

    with contextlib.redirect_stdout(sys.stderr):
        try:
            if command["do"] == "make":
                make(command["folder"], command["tiny"], command["spec"])
            elif command["do"] == "logits":
                answer = {"event": "logits", "logits": logits(command["folder"], command["ids"])}
                os.write(events, (json.dumps(answer) + "\n").encode())
            elif command["do"] == "import":
                _run(command)
            else:
                quantize(command["job"], command["threads"], events)
        except StoppedError:
            return EXIT_STOPPED
        except Exception as error:
            line = {"event": "failed", "type": type(error).__name__, "message": str(error)}
            os.write(events, (json.dumps(line) + "\n").encode())
            traceback.print_exc()
            return 1
    return 0


def _run(command: dict[str, Any]) -> None:
    """A function of a test's own helper module, in this interpreter."""
    sys.path.insert(0, str(Path(__file__).parent))
    module = __import__(command["module"])
    getattr(module, command["function"])(**command["arguments"])


def main() -> None:
    """Serve until standard input ends."""
    package = types.ModuleType("quantpipe")
    package.__path__ = [str(PACKAGE)]
    sys.modules["quantpipe"] = package
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(1)
    from transformers import AutoModelForCausalLM, Qwen3MoeForCausalLM  # noqa: F401

    from quantpipe.quantize.worker import stock  # noqa: F401
    from quantpipe.quantize.worker.streaming import engine  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(in_child(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
