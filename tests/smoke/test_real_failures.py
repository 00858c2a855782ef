"""Failures of the real vLLM, planted one by one: what it really says is recognized, and nothing is left.

The causes that no host without NPUs can have are planted in test_planted.py, by logs.
"""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import eventually, processes_of

from quantpipe.console import Console
from quantpipe.errors import PreflightError, QuantpipeError, SmokeError
from quantpipe.recipe.serve import Serve
from quantpipe.recipe.smoke import Timeouts
from quantpipe.smoke.causes import CAUSES
from quantpipe.smoke.server import choose_port, running
from quantpipe.smoke.server_command import smoke_command

pytestmark = [pytest.mark.serve_env, pytest.mark.slow]

PATIENT = Timeouts(stall=120, ready=120)
SMALL = Serve(served_model_name="tiny", max_model_len=512, max_num_seqs=8, dtype="bfloat16")


@pytest.fixture
def checkpoint(_quantized: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    made = next(_quantized.glob("runs/*/*/staging/**/config.json")).parent
    copy = tmp_path / "checkpoint"
    shutil.copytree(made, copy)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return copy


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No shared memory, no semaphore, no temporary file; processes and ports are looked for in `fails`."""
    del tmp_path  # made before the temporary folder is another one
    before = set(Path("/dev/shm").iterdir())
    with tempfile.TemporaryDirectory(prefix="qp-") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.setenv("TMPDIR", name)
        yield
        assert list(Path(name).iterdir()) == []
    assert set(Path("/dev/shm").iterdir()) - before == set()


def fails(
    checkpoint: Path,
    python: Path,
    serve: Serve = SMALL,
    *,
    port: int | None = None,
    timeouts: Timeouts = PATIENT,
    meanwhile: Callable[[str], None] = lambda run_id: None,
) -> QuantpipeError:
    """Start the real server, which fails; how quantpipe says so."""
    run_id = f"test-{secrets.token_hex(6)}"
    at = choose_port(0) if port is None else port
    helper = threading.Thread(target=meanwhile, args=(run_id,))
    helper.start()
    began = time.monotonic()
    with (
        pytest.raises(QuantpipeError) as caught,
        running(
            smoke_command("cpu", python, checkpoint, serve, at),
            port=at,
            log=checkpoint.parent / "smoke.log",
            run_id=run_id,
            timeouts=timeouts,
            console=Console("quiet", stream=io.StringIO()),
        ),
    ):
        pytest.fail("it counts as ready")
    helper.join()
    assert time.monotonic() - began < 90
    assert processes_of(f"QUANTPIPE_RUN_ID={run_id}") == []
    if port is None:
        assert choose_port(at) == at
    return caught.value


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def config(**changes: Any) -> Callable[[Path], None]:
    return lambda checkpoint: change_json(checkpoint / "config.json", lambda value: value.update(changes))


def description(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda checkpoint: change_json(checkpoint / "quant_model_description.json", change)


def without(pattern: str) -> Callable[[Path], None]:
    def remove(checkpoint: Path) -> None:
        for path in checkpoint.glob(pattern):
            path.unlink()

    return remove


def truncated(checkpoint: Path) -> None:
    shard = min(checkpoint.glob("*.safetensors"))
    os.truncate(shard, shard.stat().st_size // 2)


def untouched(checkpoint: Path) -> None:
    del checkpoint


ASCEND, FP8 = {"quant_method": "ascend"}, {"quant_method": "fp8"}
CASES: dict[str, tuple[str, Callable[[Path], None], dict[str, Any]]] = {
    "an unknown option": ("option", untouched, {"extra_args": ("--no-such-option",)}),
    "too long": ("length", untouched, {"max_model_len": 1 << 20}),
    "three ranks for four heads": ("parallel", untouched, {"tensor_parallel_size": 3}),
    "no plugin": ("no-ascend", untouched, {"environment": {"VLLM_PLUGINS": "none"}}),
    "no room for one request": ("memory", untouched, {"extra_args": ("--num-gpu-blocks-override", "1")}),
    "no memory for the cache": ("memory", untouched, {"environment": {"VLLM_CPU_KVCACHE_SPACE": "1000000"}}),
    "no description": ("description", without("quant_model_description.json"), {}),
    "a quantization_config": ("quantization-config", config(quantization_config=ASCEND), {}),
    "another quantization_config": ("quantization-config", config(quantization_config=FP8), {}),
    "no weights": ("no-weights", without("*.safetensors*"), {}),
    "a truncated shard": ("broken-shard", truncated, {}),
    "another width": ("strict-load", config(moe_intermediate_size=96), {}),
    "a layer that is not described": (
        "description-key",
        description(lambda value: value.pop("model.layers.0.self_attn.q_proj.weight")),
        {},
    ),
    "k alone is float": (
        "partial-group",
        description(lambda value: value.update({"model.layers.0.self_attn.k_proj.weight": "FLOAT"})),
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("cause", "spoil", "changes"), CASES.values(), ids=CASES)
def test_what_vllm_says_is_recognized(
    checkpoint: Path, serve_python: Path, cause: str, spoil: Callable[[Path], None], changes: dict[str, Any]
) -> None:
    spoil(checkpoint)
    failure = fails(checkpoint, serve_python, SMALL.model_copy(update=changes))
    known = next(one for one in CAUSES if one.id == cause)
    assert known.what in failure.what, failure.what
    assert failure.hint == known.hint
    assert type(failure) is (PreflightError if known.host else SmokeError)


def test_a_port_that_was_taken_meanwhile(checkpoint: Path, serve_python: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        failure = fails(checkpoint, serve_python, port=taken.getsockname()[1])
    assert isinstance(failure, PreflightError)
    assert "the port is in use" in failure.what


def test_an_interpreter_without_vllm(checkpoint: Path) -> None:
    failure = fails(checkpoint, Path(sys.executable))
    assert isinstance(failure, PreflightError)
    assert "vLLM is not installed" in failure.what


def test_a_server_that_is_stopped_in_the_middle_counts_as_hung(checkpoint: Path, serve_python: Path) -> None:
    """SIGSTOP: nothing moves any more, and SIGTERM does nothing."""

    log = checkpoint.parent / "smoke.log"

    def stop(run_id: str) -> None:
        assert eventually(lambda: log.exists() and "INFO" in log.read_text(), 60)
        for process in processes_of(f"QUANTPIPE_RUN_ID={run_id}"):
            if b"supervisor.py" not in Path(f"/proc/{process}/cmdline").read_bytes():
                os.kill(process, signal.SIGSTOP)

    began = time.monotonic()
    failure = fails(checkpoint, serve_python, timeouts=Timeouts(stall=3, ready=120), meanwhile=stop)
    assert re.search(r"hung while .*: no output, no CPU time and no I/O for 3 s", failure.what)
    assert time.monotonic() - began < 60
