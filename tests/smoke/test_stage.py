"""The stage and the stand-alone load, with the fake server instead of vLLM."""

from __future__ import annotations

import io
import json
import os
import secrets
import socket
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from quantpipe.cli import render
from quantpipe.console import Console
from quantpipe.errors import PreflightError, SmokeError, UsageError
from quantpipe.host import machine
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.model import Recipe
from quantpipe.recipe.probes import Probe
from quantpipe.recipe.serve import Serve
from quantpipe.recipe.smoke import Smoke
from quantpipe.settings import Settings
from quantpipe.smoke import launchers, standalone
from quantpipe.smoke.launchers import Process, launcher_for
from quantpipe.smoke.load import smoke_load
from quantpipe.smoke.server import choose_port, running
from quantpipe.smoke.server_command import ServerCommand
from quantpipe.smoke.session import Session
from quantpipe.smoke.standalone import Choice, Setup
from quantpipe.store.outputs import SmokeFigures

FAKE_SERVER = Path(__file__).with_name("fake_server.py")
RECIPES = Path(__file__).parent.parent.parent / "recipes"
PROBES = (
    Probe(prompt="One", continuation="after One", max_tokens=4),
    Probe(prompt="Two", max_tokens=4),
    Probe(prompt="Three", continuation="something else", max_tokens=4),
)
SMOKE = Smoke(launcher="cpu", serve=Serve(served_model_name="tiny"), probes=PROBES, min_matches=0.5)


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logs of loads that fail are kept: not beyond the test."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(store=tmp_path / "store", serve_python=Path(sys.executable))


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fake's mode; what would be started otherwise is checked in test_server_command.py."""
    mode = ["ready"]

    def command(
        launcher: str, python: Path, checkpoint: Path, serve: Serve, port: int, *, program: str | None = None
    ) -> ServerCommand:
        return ServerCommand((str(python), str(FAKE_SERVER), str(port), *mode), {})

    monkeypatch.setattr(launchers, "smoke_command", command)
    return mode


def load(tmp_path: Path, settings: Settings, smoke: Smoke = SMOKE, *, strict: bool = True) -> SmokeFigures:
    console = Console(stream=io.StringIO())
    console.record_to(tmp_path / "events.jsonl")
    return smoke_load(
        Path("/checkpoint"),
        smoke,
        launcher_for(smoke, settings, Path("/")),
        log=tmp_path / "smoke.log",
        run_id=f"test-{secrets.token_hex(6)}",
        console=console,
        strict=strict,
    )


def test_figures_report_every_probe(tmp_path: Path, settings: Settings, modes: list[str]) -> None:
    figures = load(tmp_path, settings)
    assert (figures.matched, figures.known) == (1, 2)
    probes = figures.probes
    assert [probe["matches"] for probe in probes] == [True, None, False]
    assert all(probe["request"]["prompt"] == probe["prompt"] for probe in probes)
    assert all(probe["seconds"] > 0 for probe in probes)
    assert "modelslim Quantization" in str(figures.effective_quantization)
    assert figures.command[1] == str(FAKE_SERVER)
    checks = {check["name"]: check for check in figures.checks}
    assert list(checks) == ["completion", "chat", "batch", "logprobs"]
    assert "chat template" in checks["chat"]["skipped"]
    assert len(checks["batch"]["answer"]) == len(checks["batch"]["request"]) == SMOKE.concurrency
    assert checks["logprobs"]["answer"]["token_logprobs"] == [-0.25] * 3
    assert SmokeFigures.from_json(figures.to_json(), where="") == figures
    _, lines = render.smoke(figures)
    assert [line[:14].strip() for line in lines[1:]] == [
        *("quantization", "match", "answered", "mismatch"),
        *("ok", "skipped", "ok", "ok"),
    ]
    speed = {"output_throughput": 51.23, "mean_ttft_ms": 80.4, "factor": 0.5, "baseline": 100.0}
    assert render.smoke(replace(figures, bench=speed))[1][-1] == (
        "  speed        51.2 output tokens per second, 50.0 required; 80 ms to first token"
    )
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("probe") == 3
    assert [event["event"] for event in events].count("check") == 4
    assert next(event for event in events if event["event"] == "server")["command"][1] == str(FAKE_SERVER)


def test_too_few_matches_fail_it(tmp_path: Path, settings: Settings, modes: list[str]) -> None:
    with pytest.raises(SmokeError, match="1 of 2 known continuations") as caught:
        load(tmp_path, settings, SMOKE.model_copy(update={"min_matches": 0.51}))
    assert "something else" in caught.value.details[0]


@pytest.mark.parametrize("mode", ["other-root", "error", "mark", "exits", "fallback", "fickle", "nan"])
def test_what_fails_fails_it(tmp_path: Path, settings: Settings, modes: list[str], mode: str) -> None:
    modes[0] = mode
    with pytest.raises(SmokeError):
        load(tmp_path, settings)


def test_preflight_looks_at_interpreter_device_and_port(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PreflightError, match="lacks vllm"):
        Process(SMOKE, settings).preflight()
    monkeypatch.setattr(launchers, "require_interpreter", lambda *arguments: None)
    Process(SMOKE, settings).preflight()
    monkeypatch.setattr(machine, "NPU_DEVICES", tmp_path)
    with pytest.raises(PreflightError, match="no NPU"):
        Process(SMOKE.model_copy(update={"launcher": "native"}), settings).preflight()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PreflightError, match=str(port)):
            Process(SMOKE, Settings(port=port)).preflight()


def test_a_rehearsal_of_another_model_s_recipe_only_notes_what_texts_say(
    tmp_path: Path, settings: Settings, modes: list[str]
) -> None:
    modes[0] = "mark"
    figures = load(tmp_path, settings, strict=False)
    assert {probe["fault"] for probe in figures.probes} == {"one character over and over"}
    assert figures.matched == 0


def test_stand_alone_success_leaves_no_log_and_failure_keeps_it(
    tmp_path: Path, settings: Settings, modes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Process, "preflight", lambda self: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    modes[:] = ["rooted", str(tmp_path)]
    assert standalone.smoke_directory(tmp_path, Setup(SMOKE), settings, Console("quiet")).matched == 1
    assert list(tmp_path.glob("quantpipe-smoke-*")) == []
    modes[:] = ["exits"]
    with pytest.raises(SmokeError) as caught:
        standalone.smoke_directory(tmp_path, Setup(SMOKE), settings, Console("quiet"))
    assert Path(caught.value.where or "").is_file()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_pipe_in_a_checkpoint_is_refused(tmp_path: Path, settings: Settings, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match=r"no config\.json|neither a plain file") as caught:
        standalone.smoke_directory(tmp_path, Setup(SMOKE), settings, Console("quiet"))
    assert str(tmp_path) in (caught.value.where or "")


@pytest.mark.parametrize("size", [1 << 30, 0])
def test_a_config_that_nobody_should_read_is_refused(tmp_path: Path, settings: Settings, size: int) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(size)
    with pytest.raises(UsageError, match=r"more than 33,554,432|not JSON"):
        standalone.smoke_directory(tmp_path, Setup(SMOKE), settings, Console("quiet"))


def test_stand_alone_needs_a_directory(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        standalone.smoke_directory(tmp_path / "none", Setup(SMOKE), settings, Console("quiet"))
    with pytest.raises(UsageError, match=r"no config\.json"):
        standalone.smoke_directory(tmp_path, Setup(SMOKE), settings, Console("quiet"))


def test_the_section_to_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = Recipe.model_construct(smoke=SMOKE)
    assert standalone.setup(recipe, Choice(), tmp_path) == Setup(SMOKE)
    native = standalone.setup(recipe, Choice("native", tp=2), tmp_path)
    assert native.strict and native.smoke.launcher == "native"
    assert native.smoke.serve.tensor_parallel_size == 2
    monkeypatch.setattr(machine, "NPU_DEVICES", tmp_path)
    assert standalone.setup(None, Choice(), tmp_path).smoke.launcher == "cpu"
    (tmp_path / "davinci0").touch()
    assert standalone.setup(None, Choice(), tmp_path).smoke.launcher == "native"
    assert standalone.setup(None, Choice("cpu"), tmp_path).smoke.serve.max_model_len is not None


def test_a_choice_that_lacks_something(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="launcher attach needs `url`"):
        standalone.setup(None, Choice("attach"), tmp_path)
    with pytest.raises(UsageError, match="launcher docker needs `hardware`"):
        standalone.setup(None, Choice("docker"), tmp_path)
    attached = standalone.setup(None, Choice("attach", url="http://10.0.0.1:8000"), tmp_path)
    assert attached.smoke.url == "http://10.0.0.1:8000"


def test_a_recipe_for_npus_is_rehearsed_with_a_profile_for_a_small_model(tmp_path: Path) -> None:
    """Golden: what is left of the tutorial's profile on a CPU, for a model of 256 tokens."""
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 256}')
    recipe = load_recipe(RECIPES / "qwen3-235b-w8a8-rot.yaml")
    setup = standalone.setup(recipe, Choice("cpu"), tmp_path)
    assert not setup.strict
    command = standalone.server_command(tmp_path, setup, Settings(serve_python=Path("/p/python")))
    assert command.arguments[3:] == (
        *("--model", str(tmp_path), "--host", "127.0.0.1", "--port", "8000", "--quantization", "ascend"),
        *("--served-model-name", "qwen3", "--tensor-parallel-size", "1", "--data-parallel-size", "1"),
        *("--seed", "1024", "--dtype", "bfloat16", "--max-num-seqs", "8", "--max-model-len", "256"),
        *("--trust-remote-code", "--enforce-eager", "--distributed-executor-backend", "uni"),
    )
    npu = ("ASCEND", "HCCL", "PYTORCH_NPU", "OMP", "TASK_QUEUE", "VLLM_USE_MODELSCOPE")
    assert not [name for name in command.environment if name.startswith(npu)]


def test_two_ranks_of_a_rehearsal(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "qwen3-235b-w8a8-rot.yaml")
    setup = standalone.setup(recipe, Choice("cpu", tp=2), tmp_path)
    command = standalone.server_command(tmp_path, setup, Settings(serve_python=Path("/p/python")))
    assert command.arguments[command.arguments.index("--tensor-parallel-size") + 1] == "2"
    assert "--enable-expert-parallel" in command.arguments
    assert command.environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


# -- attach -------------------------------------------------------------------------------------------


def test_a_server_that_runs_already_is_asked_and_left_alone(
    tmp_path: Path, settings: Settings, modes: list[str]
) -> None:
    """Its log is elsewhere, its path of the checkpoint another one with the same last name."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    # the fake that the fixture `modes` has put there
    command = launchers.smoke_command("cpu", Path(sys.executable), checkpoint, Serve(), 0)  # type: ignore[attr-defined]
    with running(
        command=replace_port(command, port := choose_port(0)),
        port=port,
        log=tmp_path / "server.log",
        run_id=f"test-{secrets.token_hex(6)}",
        timeouts=SMOKE.timeouts,
        console=Console("quiet"),
    ) as server:
        smoke = SMOKE.model_copy(update={"launcher": "attach", "url": f"{server.url}/"})
        figures = standalone.smoke_directory(checkpoint, Setup(smoke), settings, Console("quiet"))
        assert figures.effective_quantization is None
        assert figures.command == ()
        assert figures.matched == 1
        assert not figures.unverified and "unverified" not in figures.to_json()
        other = tmp_path / "other"
        other.mkdir()
        (other / "config.json").write_text("{}")
        with pytest.raises(SmokeError, match="serves /checkpoint and not"):
            standalone.smoke_directory(other, Setup(smoke), settings, Console("quiet"))
        with pytest.raises(UsageError, match="starts nothing"):
            standalone.server_command(checkpoint, Setup(smoke), settings)
        with urllib.request.urlopen(f"{server.url}/health") as answer:
            assert answer.status == 200


@pytest.fixture
def attached(server: Callable[..., Session]) -> Callable[..., Smoke]:
    """The smoke section for the fake in a mode, as a server that somebody else started."""

    def section(mode: str, *more: str, **update: Any) -> Smoke:
        url = server(mode, *more).client.url
        return SMOKE.model_copy(update={"launcher": "attach", "url": url, **update})

    return section


def test_a_server_that_does_not_report_its_directory_vouches_for_nothing(
    tmp_path: Path, settings: Settings, attached: Callable[..., Smoke]
) -> None:
    """A gateway, a proxy, a server without any model: nothing is published after it answered well."""
    smoke = attached("no-root")
    with pytest.raises(SmokeError, match="does not report which directory") as caught:
        load(tmp_path, settings, smoke)
    assert caught.value.exit_code == 4
    assert "smoke.unverified: true" in (caught.value.hint or "")


def test_a_recipe_may_accept_that_and_the_receipt_says_so(
    tmp_path: Path, settings: Settings, attached: Callable[..., Smoke]
) -> None:
    figures = load(tmp_path, settings, attached("no-root", unverified=True))
    assert figures.unverified and figures.to_json()["unverified"] is True
    assert "smoke.unverified accepts" in (tmp_path / "events.jsonl").read_text()
    with pytest.raises(SmokeError, match="serves /another and not"):
        load(tmp_path, settings, attached("rooted", "/another", unverified=True))


def test_a_link_on_the_server_s_host_vouches_for_nothing(tmp_path: Path, settings: Settings) -> None:
    """It may have moved since the server loaded: only the path that the server names counts."""
    generation = tmp_path / "b"
    generation.mkdir()
    (tmp_path / "current").symlink_to("b")
    session = Session(Models({"id": "tiny", "root": str(tmp_path / "current")}), "tiny")  # type: ignore[arg-type]
    with pytest.raises(SmokeError, match="current and not"):
        session.require_checkpoint(generation, ours=False)


@dataclass(frozen=True)
class Models:
    """A client whose server serves this one model."""

    model: dict[str, str]
    url: str = "http://x"

    def json(self, path: str) -> dict[str, Any]:
        return {"data": [self.model]}


@pytest.mark.parametrize(("named", "sent"), [("", False), ("same", True), ("http://127.0.0.1:1", False)])
def test_a_key_goes_only_to_addresses_that_the_settings_name(
    tmp_path: Path,
    settings: Settings,
    attached: Callable[..., Smoke],
    monkeypatch: pytest.MonkeyPatch,
    named: str,
    sent: bool,
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "geheim")
    recipe_key = Serve(served_model_name="tiny", environment={"VLLM_API_KEY": "geheim"})
    smoke = attached("locked", serve=recipe_key)
    urls = f"{smoke.url}/".replace("http", "HTTP") if named == "same" else named
    settings = Settings.model_validate({**settings.model_dump(), "api_key_urls": urls})
    if sent:
        assert load(tmp_path, settings, smoke).matched == 1
        return
    with pytest.raises(SmokeError, match="HTTP 401") as caught:
        load(tmp_path, settings, smoke)
    assert f"--api-key-urls {smoke.url}" in (caught.value.hint or "")


def test_an_address_of_the_command_line_may_have_the_key(
    tmp_path: Path, settings: Settings, attached: Callable[..., Smoke], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    monkeypatch.setenv("VLLM_API_KEY", "geheim")
    smoke = attached("locked")
    with pytest.raises(SmokeError, match="HTTP 401"):
        standalone.smoke_directory(checkpoint, Setup(smoke), settings, Console("quiet"))
    named = Setup(smoke, named=smoke.url)
    assert standalone.smoke_directory(checkpoint, named, settings, Console("quiet")).matched == 1


def test_the_server_of_a_load_has_a_key_of_its_own(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user of the host cannot use it, and the caller's key is not in it."""
    seen = []

    def command(*arguments: Any, program: str | None = None) -> ServerCommand:
        serve, port = arguments[3:5]
        seen.append(serve.environment["VLLM_API_KEY"])
        return ServerCommand(
            (sys.executable, str(FAKE_SERVER), str(port), "keyed"), {"VLLM_API_KEY": seen[-1]}
        )

    monkeypatch.setenv("VLLM_API_KEY", "geheim")
    monkeypatch.setattr(launchers, "smoke_command", command)
    for _ in range(2):
        assert load(tmp_path, settings).matched == 1
    assert len({*seen, "geheim"}) == 3 and all(len(key) > 30 for key in seen)
    written = (tmp_path / "events.jsonl").read_text() + (tmp_path / "smoke.log").read_text()
    assert not [key for key in seen if key in written]


def replace_port(command: ServerCommand, port: int) -> ServerCommand:
    program, script, _, *rest = command.arguments
    return ServerCommand((program, script, str(port), *rest), {})


def test_nobody_at_the_url(tmp_path: Path, settings: Settings) -> None:
    url = f"http://127.0.0.1:{choose_port(0)}"
    (tmp_path / "config.json").write_text("{}")
    smoke = SMOKE.model_copy(update={"launcher": "attach", "url": url})
    with pytest.raises(SmokeError, match=r"no valid answer: .*refused"):
        standalone.smoke_directory(tmp_path, Setup(smoke), settings, Console("quiet"))


def test_native_takes_vllm_from_path_where_there_is_no_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    smoke = Smoke(launcher="native", serve=Serve(served_model_name="m"))
    nowhere = Settings(serve_python=tmp_path / "none")
    command = launcher_for(smoke, nowhere, tmp_path).command(Path("/x"), 7, "id")
    assert command.arguments[:3] == (str(program), "serve", "/x")
    here = Settings(serve_python=Path(sys.executable))
    command = launcher_for(smoke, here, tmp_path).command(Path("/x"), 7, "id")
    assert command.arguments[0] == sys.executable
