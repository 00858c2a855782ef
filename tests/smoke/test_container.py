"""Launchers docker and podman, with a fake for the engine that records and runs the fake server."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import ROOT
from helpers.processes import processes_of

from quantpipe.console import Console
from quantpipe.errors import PreflightError, RecipeError
from quantpipe.host import machine
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.probes import Probe
from quantpipe.recipe.serve import Serve
from quantpipe.recipe.smoke import Bench, Container, Smoke
from quantpipe.settings import Settings
from quantpipe.smoke import container
from quantpipe.smoke.bench import measure
from quantpipe.smoke.client import Client
from quantpipe.smoke.container import Containers
from quantpipe.smoke.launchers import launcher_for
from quantpipe.smoke.load import smoke_load
from quantpipe.smoke.session import Session
from quantpipe.store.outputs import SmokeFigures

HERE = Path(__file__).parent
CHECKPOINT = Path("/store/models/m/checkpoint")
SMOKE = Smoke(
    launcher="docker",
    hardware="a3",
    serve=Serve(served_model_name="tiny", environment={"HCCL_BUFFSIZE": "512", "VLLM_API_KEY": "geheim"}),
    probes=(Probe(prompt="One", continuation="after One"),),
)

# Section 4.1 of the tutorial: what `docker run` gets for one server of either kind.
DRIVER_MOUNTS = [
    "/usr/local/dcmi:/usr/local/dcmi",
    "/usr/local/Ascend/driver/tools/hccn_tool:/usr/local/Ascend/driver/tools/hccn_tool",
    "/usr/local/bin/npu-smi:/usr/local/bin/npu-smi",
    "/usr/local/Ascend/driver/lib64/:/usr/local/Ascend/driver/lib64/",
    "/usr/local/Ascend/driver/version.info:/usr/local/Ascend/driver/version.info",
    "/etc/ascend_install.info:/etc/ascend_install.info",
]


class Engine:
    """The fake on PATH, under both names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def asked(self) -> list[list[str]]:
        record = self.folder / "record.jsonl"
        return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []

    def boxes(self) -> list[str]:
        return [path.name for path in (self.folder / "boxes").glob("*")]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    folder = tmp_path / "engine"
    folder.mkdir()
    for name in ("docker", "podman"):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -I {HERE / "fake_docker.py"} "$@"\n')
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_DOCKER_FOLDER", str(folder))
    monkeypatch.setenv("QUANTPIPE_PASS_ENVIRONMENT", "FAKE_DOCKER_*")
    server = [sys.executable, str(HERE / "fake_server.py"), "PORT", "rooted", str(CHECKPOINT)]
    monkeypatch.setenv("FAKE_DOCKER_SERVER", json.dumps(server))
    return Engine(folder)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    none = tmp_path / "none"
    return Settings(store=tmp_path / "store", serve_python=none, pass_environment=("FAKE_DOCKER_*",))


def containers(smoke: Smoke, settings: Settings) -> Containers:
    launcher = launcher_for(smoke, settings, Path("/store"))
    assert isinstance(launcher, Containers)
    return launcher


def values(arguments: tuple[str, ...], option: str) -> list[str]:
    """The values of an option of the engine: of what precedes the image."""
    return [arguments[i + 1] for i, argument in enumerate(arguments) if argument == option]


@pytest.mark.parametrize(
    ("hardware", "count", "image"),
    [
        ("a2", 8, "quay.io/ascend/vllm-ascend:v0.21.0rc1"),
        ("a3", 16, "quay.io/ascend/vllm-ascend:v0.21.0rc1-a3"),
    ],
)
@pytest.mark.parametrize("program", ["docker", "podman"])
def test_the_tutorial_s_container(
    settings: Settings, program: str, hardware: str, count: int, image: str
) -> None:
    recipe = load_recipe(ROOT / "recipes" / "qwen3-235b-w8a8-rot.yaml")
    smoke = recipe.smoke.model_copy(update={"launcher": program, "hardware": hardware})
    arguments = containers(smoke, settings).command(CHECKPOINT, 8123, "run-1").arguments
    assert arguments[:3] == (program, "run", "--rm")
    assert values(arguments, "--device") == [
        *(f"/dev/davinci{number}" for number in range(count)),
        *("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"),
    ]
    assert values(arguments, "-v") == [*(f"{mount}:ro" for mount in DRIVER_MOUNTS), "/store:/store:ro"]
    assert "--shm-size=1g" in arguments and "--net=host" in arguments
    at = arguments.index(image)
    assert arguments[at + 1 : at + 3] == ("bash", "-c")
    assert arguments[at + 5 : at + 12] == (
        *("vllm", "serve", str(CHECKPOINT)),
        *("--host", "127.0.0.1", "--port", "8123"),
    )
    environment = dict(value.split("=", 1) for value in values(arguments[:at], "-e"))
    assert environment.items() >= recipe.smoke.serve.environment.items()
    assert environment["QUANTPIPE_RUN_ID"] == "run-1"
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_the_recipe_changes_image_devices_memory_and_mounts(settings: Settings) -> None:
    section = Container(image="mine:1", devices=(8, 9), shm_size="16g", mounts=("/cache:/root/.cache",))
    smoke = SMOKE.model_copy(update={"container": section})
    arguments = containers(smoke, settings).command(CHECKPOINT, 1, "r").arguments
    assert "mine:1" in arguments and "--shm-size=16g" in arguments
    assert values(arguments, "--device")[:3] == ["/dev/davinci8", "/dev/davinci9", "/dev/davinci_manager"]
    assert values(arguments, "-v")[-1] == "/cache:/root/.cache"


def test_a_link_does_not_lead_around_the_check_of_mounts(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "harmless").symlink_to("/")
    for mount, said in (
        (f"{tmp_path}/harmless:/host", "a whole part of the host"),
        ("/data:/store/models", "would hide the checkpoint"),
        ("/data:/store", "would hide the checkpoint"),
        ("/data:/x/../store/models/m/checkpoint", "would hide the checkpoint"),
    ):
        smoke = SMOKE.model_copy(update={"container": Container(mounts=(mount,))})
        with pytest.raises(RecipeError, match=said):
            containers(smoke, settings).command(CHECKPOINT, 1, "r")


def test_a_secret_is_in_no_command_line_and_in_no_event(settings: Settings) -> None:
    command = containers(SMOKE, settings).command(CHECKPOINT, 1, "r")
    assert "VLLM_API_KEY" in values(command.arguments, "-e")
    assert "geheim" not in json.dumps(command.describe())
    assert command.environment == {"VLLM_API_KEY": "geheim"}


def test_the_shell_of_the_container_sets_cann_up_and_hands_arguments_on(tmp_path: Path) -> None:
    script = container._SET_UP.replace("/usr/local/Ascend", str(tmp_path)) + 'exec "$@"'
    (tmp_path / "nnal" / "atb").mkdir(parents=True)
    (tmp_path / "nnal" / "atb" / "set_env.sh").write_text("export FROM_CANN=yes\n")
    echo = ["sh", "-c", 'echo "$FROM_CANN $0 $1"', "a b", '{"c": 1}']
    done = subprocess.run(["bash", "-c", script, "vllm", *echo], capture_output=True, text=True, check=True)
    assert done.stdout == 'yes a b {"c": 1}\n'


def load(smoke: Smoke, settings: Settings, tmp_path: Path, run_id: str) -> SmokeFigures:
    return smoke_load(
        CHECKPOINT,
        smoke,
        launcher_for(smoke, settings, Path("/store")),
        log=tmp_path / "smoke.log",
        run_id=run_id,
        console=Console("quiet", stream=io.StringIO()),
    )


@pytest.mark.parametrize("program", ["docker", "podman"])
def test_a_load_in_a_container(engine: Engine, settings: Settings, tmp_path: Path, program: str) -> None:
    run_id = f"test-{secrets.token_hex(6)}"
    figures = load(SMOKE.model_copy(update={"launcher": program}), settings, tmp_path, run_id)
    assert figures.matched == 1
    assert "modelslim Quantization" in str(figures.effective_quantization)
    assert [asked[0] for asked in engine.asked()] == ["run", "rm"]
    assert engine.asked()[-1] == ["rm", "--force", f"quantpipe-{run_id}"]
    assert engine.boxes() == []
    assert processes_of(f"QUANTPIPE_RUN_ID={run_id}") == []
    assert "geheim" not in json.dumps(figures.to_json())


def test_a_container_that_outlives_its_client_is_removed(
    engine: Engine, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is killed; what the daemon runs continues. The end of the block removes it by its name."""
    run_id = f"test-{secrets.token_hex(6)}"
    launcher = containers(SMOKE, settings)
    with launcher.serving(CHECKPOINT, tmp_path / "log", run_id, Console("quiet")):
        box = engine.folder / "boxes" / f"quantpipe-{run_id}"
        inside = int(box.read_text())
        os.kill(int(Path(f"/proc/{inside}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    assert processes_of(f"QUANTPIPE_RUN_ID={run_id}") == []
    assert engine.boxes() == []


def test_the_next_run_removes_what_a_killed_one_left(engine: Engine, settings: Settings) -> None:
    """A container without any client, and one of another run, which stays."""
    mine, other = (f"test-{secrets.token_hex(6)}" for _ in range(2))
    (engine.folder / "boxes").mkdir()
    left = subprocess.Popen(["sleep", "600"], start_new_session=True)
    (engine.folder / "boxes" / f"quantpipe-{mine}").write_text(str(left.pid))
    (engine.folder / "boxes" / f"quantpipe-{other}").write_text("0")
    (engine.folder / "boxes" / "postgres").write_text("0")
    told = containers(SMOKE, settings).reap(lambda run_id: run_id == mine)
    assert told == [f"container quantpipe-{mine}"]
    assert left.wait(10) == -signal.SIGKILL
    assert sorted(engine.boxes()) == sorted(["postgres", f"quantpipe-{other}"])


def test_a_container_whose_client_is_watched_over_is_left_alone(engine: Engine, settings: Settings) -> None:
    run_id = f"test-{secrets.token_hex(6)}"
    launcher = containers(SMOKE, settings)
    log = engine.folder / "log"
    with launcher.serving(CHECKPOINT, log, run_id, Console("quiet")):
        assert launcher.reap(lambda found: found == run_id) == []
        assert engine.boxes() == [f"quantpipe-{run_id}"]


def test_preflight_names_what_is_missing(
    engine: Engine, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = tmp_path / "dev"
    devices.mkdir()
    monkeypatch.setattr(machine, "NPU_DEVICES", devices)
    driver = tmp_path / "driver"
    monkeypatch.setattr(container, "_DRIVER", (str(driver),))
    launcher = containers(SMOKE, settings)
    with pytest.raises(PreflightError, match="no NPU on this host"):
        launcher.preflight()
    for name in (*(f"davinci{n}" for n in range(16)), "davinci_manager", "devmm_svm", "hisi_hdc"):
        (devices / name).touch()
    with pytest.raises(PreflightError, match=f"does not provide {driver}"):
        launcher.preflight()
    driver.touch()
    launcher.preflight()
    (devices / "davinci9").unlink()
    with pytest.raises(PreflightError, match=r"does not provide .*davinci9"):
        launcher.preflight()
    monkeypatch.setenv("FAKE_DOCKER_NO_IMAGE", "1")
    with pytest.raises(PreflightError, match=r"v0\.21\.0rc1-a3 is not on this host") as caught:
        launcher.preflight()
    assert "docker pull quay.io/ascend/vllm-ascend:v0.21.0rc1-a3" in (caught.value.hint or "")
    monkeypatch.setenv("FAKE_DOCKER_BROKEN", "1")
    with pytest.raises(PreflightError, match="Cannot connect to the Docker daemon"):
        launcher.preflight()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreflightError, match="no `docker` on PATH"):
        launcher.preflight()
    assert launcher.reap(lambda run_id: True) == []


def test_bench_runs_inside_and_its_result_comes_out(
    engine: Engine, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {"completed": 4, "failed": 0, "output_throughput": 12.5}
    monkeypatch.setenv("FAKE_DOCKER_EXEC", json.dumps(["echo", json.dumps(result)]))
    figures = measure(
        Bench(num_prompts=4),
        containers(SMOKE, settings),
        Session(Client("http://127.0.0.1:1", 10), "tiny"),
        checkpoint=CHECKPOINT,
        log=tmp_path / "bench.log",
        run_id="r",
        console=Console("quiet"),
    )
    assert figures["output_throughput"] == 12.5
    (asked,) = engine.asked()
    assert asked[:4] == ["exec", "-e", "OPENAI_API_KEY", "quantpipe-r"]
    assert asked[asked.index("vllm") + 1 :][:3] == ["vllm", "bench", "serve"]


def test_a_killed_quantpipe_leaves_no_container(engine: Engine, tmp_path: Path) -> None:
    """SIGKILL of quantpipe: its supervisor ends the client, the client its container."""
    run_id = f"test-{secrets.token_hex(6)}"
    code = f"""
import time
from pathlib import Path
from quantpipe.console import Console
from quantpipe.recipe.serve import Serve
from quantpipe.recipe.smoke import Smoke
from quantpipe.settings import Settings
from quantpipe.smoke.launchers import launcher_for
smoke = Smoke(launcher="docker", hardware="a2", serve=Serve(served_model_name="tiny"))
launcher = launcher_for(smoke, Settings(), Path("/"))
with launcher.serving(Path("/c"), Path({str(tmp_path / "log")!r}), {run_id!r}, Console("quiet")):
    print("ready", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while processes_of(f"QUANTPIPE_RUN_ID={run_id}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(f"QUANTPIPE_RUN_ID={run_id}") == []
    assert shutil.which("docker")
