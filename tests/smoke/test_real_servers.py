"""The real vLLM with the launchers that do not start it as their own process."""

from __future__ import annotations

import io
import json
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import TINY_RECIPE, quantpipe
from helpers.processes import processes_of

from quantpipe.console import Console
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.smoke import Timeouts
from quantpipe.settings import Settings
from quantpipe.smoke.launchers import launcher_for
from quantpipe.smoke.load import smoke_load
from quantpipe.smoke.server import choose_port, running
from quantpipe.smoke.server_command import ServerCommand, smoke_command

pytestmark = [pytest.mark.serve_env, pytest.mark.slow]

SMOKE = load_recipe(TINY_RECIPE).smoke
QUIET = Console("quiet", stream=io.StringIO())


@pytest.fixture
def checkpoint(_quantized: Path) -> Path:
    return next(_quantized.glob("runs/*/*/staging/**/config.json")).parent


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="qp-") as name:
        yield Path(name)


def test_the_rehearsal_in_the_place_of_a_container_s_server(
    checkpoint: Path, serve_python: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`docker run` by a fake that starts the real engine: all probes run and match, nothing left over."""
    docker = folder / "bin" / "docker"
    docker.parent.mkdir()
    fake = Path(__file__).with_name("fake_docker.py")
    docker.write_text(f'#!/bin/sh\nexec {sys.executable} -I {fake} "$@"\n')
    docker.chmod(0o755)
    rehearsal = smoke_command("cpu", serve_python, checkpoint, SMOKE.serve, 0)
    mark = secrets.token_hex(8)
    variables = [f"{name}={value}" for name, value in rehearsal.environment.items()]
    server = ["PORT" if part == "0" else part for part in rehearsal.arguments]
    inside = ["/usr/bin/env", *variables, f"TMPDIR={folder}", f"SMOKE_TEST_MARK={mark}", *server]
    monkeypatch.setenv("PATH", f"{docker.parent}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_DOCKER_FOLDER", str(folder))
    monkeypatch.setenv("QUANTPIPE_PASS_ENVIRONMENT", "FAKE_DOCKER_*")
    monkeypatch.setenv("FAKE_DOCKER_SERVER", json.dumps(inside))
    smoke = SMOKE.model_copy(update={"launcher": "docker", "hardware": "a3"})
    figures = smoke_load(
        checkpoint,
        smoke,
        launcher_for(smoke, Settings(), checkpoint),
        log=tmp_path / "smoke.log",
        run_id=f"test-{secrets.token_hex(6)}",
        console=QUIET,
    )
    assert figures.command[:2] == ("docker", "run")
    assert figures.known == 18
    assert "quantization=ascend in effect" in str(figures.effective_quantization)
    recorded = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    assert [asked[0] for asked in recorded] == ["run", "rm"]
    assert recorded[0][recorded[0].index("-v") :].count(f"{checkpoint}:{checkpoint}:ro") == 1
    assert processes_of(f"SMOKE_TEST_MARK={mark}") == []


@pytest.mark.parametrize("dev_mode", ["1", "0"])
def test_a_server_that_somebody_else_started(
    checkpoint: Path, serve_python: Path, folder: Path, tmp_path: Path, dev_mode: str
) -> None:
    """Asked by launcher attach, and still there afterwards; in dev mode it reports its quantization."""
    port = choose_port(0)
    command = smoke_command("cpu", serve_python, checkpoint, SMOKE.serve, port)
    with running(
        ServerCommand(command.arguments, {**command.environment, "VLLM_SERVER_DEV_MODE": dev_mode}),
        port=port,
        log=tmp_path / "server.log",
        run_id=f"test-{secrets.token_hex(6)}",
        timeouts=Timeouts(),
        console=QUIET,
    ) as server:
        options = ("--recipe", TINY_RECIPE, "--launcher", "attach", "--url", server.url, "--json")
        for _ in range(2):
            done = quantpipe("smoke", checkpoint, *options, TMPDIR=str(folder))
            assert done.status == 0, done.stderr
            figures = done.json()
            assert figures["known"] == 18
            told = figures["effective_quantization"]
            assert told == ("/server_info: quantization=ascend" if dev_mode == "1" else None)
            assert ("quantization in effect is unknown" in done.stderr) == (dev_mode == "0")
    assert list(folder.iterdir()) == []
