"""`vllm serve` itself: it starts under its name, says that the quantization is in effect, and why not."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .checkpoints import build

pytestmark = pytest.mark.slow

IN_EFFECT = "quantpipe: quantization=ascend in effect"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return build(moe=True, layout="V1").write(tmp_path / "checkpoint")


@contextmanager
def server(checkpoint: Path, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(checkpoint), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--quantization", "ascend", "--dtype", "bfloat16", "--enforce-eager"]
    command += ["--max-model-len", "128", "--max-num-seqs", "2", "--skip-tokenizer-init"]
    command += ["--gpu-memory-utilization", "0.2", "--distributed-executor-backend", "uni"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            yield process
        finally:
            # The engine core outlives a killed server, and is in its group.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_good_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "server.log"
    with server(checkpoint, port, log) as process:
        deadline = time.monotonic() + 240
        while not healthy(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)
        assert IN_EFFECT in log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_a_spoiled_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    shard = min(checkpoint.glob("*.safetensors"))
    (checkpoint / "stale.safetensors").write_bytes(shard.read_bytes())
    port, log = free_port(), tmp_path / "server.log"
    with server(checkpoint, port, log) as process:
        assert process.wait(240) != 0
    text = log.read_text()
    assert re.search(rf"model\.layers\.0\.\S+: duplicate, in {shard.name} and in stale.safetensors", text)
    assert re.search(r"\.\.\. and \d+ more", text)
    assert "next: `quantpipe verify` on this directory" in text
    assert IN_EFFECT not in text
