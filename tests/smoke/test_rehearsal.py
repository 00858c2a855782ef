"""The real vLLM engine with the rehearsal plugin, on a checkpoint that the real quantizer made."""

from __future__ import annotations

import json
import random
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import QUANTPIPE, TINY_RECIPE, environment, quantpipe
from helpers.processes import processes_of

pytestmark = pytest.mark.serve_env


@pytest.fixture
def checkpoint(_quantized: Path, serve_python: Path) -> Path:
    """Read only: nothing here writes into a checkpoint."""
    del serve_python
    return next(_quantized.glob("runs/*/*/staging/**/config.json")).parent


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: vLLM's sockets are in the temporary folder, and their paths may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="qp-") as name:
        yield Path(name)


def smoke(checkpoint: Path, temporary: Path, *options: str) -> tuple[int, dict[str, object], str]:
    done = quantpipe("smoke", checkpoint, "--json", *options, TMPDIR=str(temporary))
    return done.status, done.json(), done.stderr


def test_a_rehearsal(checkpoint: Path, folder: Path) -> None:
    """Everything once: load, quantization in effect, probes, checks, end."""
    status, figures, errors = smoke(checkpoint, folder, "--recipe", str(TINY_RECIPE))
    assert status == 0, errors
    assert "quantization=ascend in effect" in str(figures["effective_quantization"])
    assert figures["known"] == 18
    checks = {check["name"]: check for check in figures["checks"]}  # type: ignore[attr-defined]
    assert list(checks) == ["completion", "chat", "batch", "logprobs"]
    assert all(check["skipped"] is None for check in checks.values())
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_the_recipe_of_the_235b_model_is_rehearsed(checkpoint: Path, folder: Path) -> None:
    recipe = TINY_RECIPE.with_name("qwen3-235b-w8a8-rot.yaml")
    status, figures, errors = smoke(checkpoint, folder, "--recipe", str(recipe), "--launcher", "cpu")
    assert status == 0, errors
    assert len(figures["probes"]) == 3  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_ranks(checkpoint: Path, folder: Path) -> None:
    before = set(Path("/dev/shm").iterdir())
    status, figures, errors = smoke(checkpoint, folder, "--recipe", str(TINY_RECIPE), "--tp", "2")
    assert status == 0, errors
    assert figures["known"] == 18
    assert list(folder.iterdir()) == []
    assert set(Path("/dev/shm").iterdir()) - before == set()


@pytest.mark.slow
def test_a_spoiled_checkpoint_fails_by_name(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    spoiled = tmp_path / "spoiled"
    subprocess.run(["cp", "-r", str(checkpoint), str(spoiled)], check=True)
    subprocess.run(["chmod", "-R", "u+w", str(spoiled)], check=True)
    description = spoiled / "quant_model_description.json"
    value = json.loads(description.read_text())
    del value["model.layers.0.mlp.experts.3.up_proj.weight"]
    description.write_text(json.dumps(value))
    status, failure, _ = smoke(spoiled, folder, "--recipe", str(TINY_RECIPE))
    assert status == 4
    assert "description lacks a tensor" in str(failure["what"])
    assert "experts.3.up_proj" in json.dumps(failure)
    description.unlink()
    status, failure, _ = smoke(spoiled, folder, "--recipe", str(TINY_RECIPE))
    assert status == 4
    assert "description is missing" in str(failure["what"])


@pytest.mark.slow
def test_a_speed_figure(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    """A floor that any machine reaches, then one that none does."""
    text = TINY_RECIPE.read_text("utf-8").replace("../", f"{TINY_RECIPE.parent.parent}/")
    for baseline, wanted in ((0.001, 0), (1e9, 4)):
        bench = f"smoke:\n  bench: {{num_prompts: 4, input_len: 32, output_len: 8, baseline: {baseline}}}"
        recipe = tmp_path / "bench.yaml"
        recipe.write_text(text.replace("smoke:", bench, 1), "utf-8")
        status, value, errors = smoke(checkpoint, folder, "--recipe", str(recipe))
        assert status == wanted, errors
        if wanted == 0:
            assert value["bench"]["completed"] == 4  # type: ignore[index]
        else:
            assert "are required" in str(value["what"])


def listening() -> set[str]:
    """Addresses that anybody listens on: proc(5) net/tcp, state 0A."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                found.add(fields[1])
    return found


EXPECTED = {None: 0, signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGKILL: -9}


class Loads:
    """Loads of one checkpoint, some of them interrupted, and a look at what each has left.

    Args:
        folder: the temporary folder of all of them.
    """

    def __init__(self, checkpoint: Path, folder: Path, *options: str) -> None:
        self.command = [str(QUANTPIPE), "smoke", str(checkpoint), "--recipe", str(TINY_RECIPE), "--quiet"]
        self.command += options
        self.folder = folder
        self.shared_memory = set(Path("/dev/shm").iterdir())
        self.temporary = set(Path("/tmp").glob("quantpipe-*"))
        self.longest = 0.0
        self.interrupted = 0

    def load(self, number: signal.Signals | None = None, share: float = 0.0) -> None:
        """A load, interrupted after this share of the longest one so far: no process, no port is left."""
        mark = secrets.token_hex(8)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        began = time.monotonic()
        process = subprocess.Popen(
            [*self.command, "--port", str(port)],
            env=environment(
                TMPDIR=str(self.folder), SMOKE_TEST_MARK=mark, QUANTPIPE_PASS_ENVIRONMENT="SMOKE_TEST_MARK"
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        if number is not None:
            time.sleep(share * self.longest)
            process.send_signal(number)
        _, errors = process.communicate(timeout=300)
        assert process.returncode in (EXPECTED[number], 0), errors  # 0: it was done before
        self.interrupted += process.returncode != 0
        self.longest = max(self.longest, time.monotonic() - began)
        deadline = time.monotonic() + (30 if number == signal.SIGKILL else 0)
        while (left := processes_of(f"SMOKE_TEST_MARK={mark}")) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []
        assert f"0100007F:{port:04X}" not in listening()
        assert set(Path("/dev/shm").iterdir()) - self.shared_memory == set()

    def assert_nothing_is_left(self) -> None:
        """After an undisturbed load: the next one removes what SIGKILL leaves (a log)."""
        assert list(self.folder.iterdir()) == []
        assert set(Path("/tmp").glob("quantpipe-*")) - self.temporary == set()


@pytest.mark.slow
def test_twenty_runs_in_a_row_five_of_them_interrupted_leave_nothing(checkpoint: Path, folder: Path) -> None:
    """SIGINT, SIGTERM and SIGKILL at a random moment of five; the last one is undisturbed."""
    chance = random.Random(20)
    interrupted = set(chance.sample(range(1, 19), 5))
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL]
    loads = Loads(checkpoint, folder)
    for number in range(20):
        if number in interrupted:
            loads.load(numbers.pop(), chance.uniform(0.05, 0.9))
        else:
            loads.load()
    assert loads.interrupted >= 4
    loads.assert_nothing_is_left()


@pytest.mark.slow
def test_two_ranks_that_are_interrupted_leave_nothing(checkpoint: Path, folder: Path) -> None:
    """Between ranks vLLM shares memory that no resource tracker knows of."""
    loads = Loads(checkpoint, folder, "--tp", "2")
    loads.load()
    for number, share in ((signal.SIGKILL, 0.4), (signal.SIGTERM, 0.6), (signal.SIGKILL, 0.8)):
        loads.load(number, share)
    assert loads.interrupted == 3
    loads.load()
    loads.assert_nothing_is_left()
