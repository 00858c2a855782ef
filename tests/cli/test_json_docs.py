"""docs/json.md is true: what commands print has exactly the documented keys, of the documented types."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ROOT, TINY_RECIPE, write_recipe
from helpers.golden import ASSET, DIGEST, NAME, golden_recipe, golden_store
from helpers.json_shapes import Shapes
from helpers.receipts import MANIFEST, QUALITY
from helpers.reports import reported_store
from helpers.stores import RECIPE, published

from quantpipe.checkpoint.modules import Module
from quantpipe.cli import cli, json_docs, main, values
from quantpipe.cli.docs import leaf_commands
from quantpipe.cli.json_fields import fields_of
from quantpipe.report.document import KindSize
from quantpipe.report.sizes import sizes_by_kind
from quantpipe.smoke import bench, launchers
from quantpipe.smoke.bench import BenchFigures
from quantpipe.smoke.server_command import ServerCommand
from quantpipe.store.outputs import FetchFigures, PublishFigures, QuantizeOutput, SmokeFigures
from quantpipe.store.seal import DAMAGED_PREFIX
from quantpipe.store.status import LastRun
from quantpipe.store.store import Store
from quantpipe.verify.fidelity.result import Fidelity, ModuleError
from quantpipe.verify.memory import Memory
from quantpipe.verify.report import ReportFigures

FAKE_SERVER = ROOT / "tests" / "smoke" / "fake_server.py"


class Commands:
    """Runs commands in this process; what they print is compared with the page."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.shapes = Shapes()
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.printed: set[str] = set()

    def __call__(self, command: str, *arguments: str | Path, status: int = 0) -> Any:
        """Its data."""
        ended, out, err = self.run(*command.split(), *arguments)
        assert ended == status, err
        self.printed.add(command)
        self.compare(out, json_docs.COMMANDS[command])
        return out

    def fail(self, *arguments: str | Path, status: int) -> Any:
        """Its error."""
        ended, out, err = self.run(*arguments)
        assert ended == status, err
        self.compare(out, values.FailureJson)
        return out

    def run(self, *arguments: str | Path) -> tuple[Any, Any, str]:
        self._monkeypatch.setattr(sys, "argv", ["quantpipe", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = self._capsys.readouterr()
        for line in captured.err.splitlines():
            self.event(line)
        return ended.value.code, json.loads(captured.out), captured.err

    def event(self, line: str) -> None:
        """Compare an event."""
        event = json.loads(line)
        assert isinstance(event.pop("time"), str)
        self.compare(event, json_docs.EVENTS[event.pop("event")][1])

    def compare(self, value: Any, kind: Any) -> None:
        assert self.shapes.problems(value, kind) == []


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Commands:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Commands(monkeypatch, capsys)


@pytest.fixture
def fake_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of vLLM."""

    def command(
        launcher: str, python: Path, checkpoint: Path, serve: Any, port: int, **rest: Any
    ) -> ServerCommand:
        return ServerCommand(
            (sys.executable, str(FAKE_SERVER), str(port), "rooted", str(checkpoint)), {"A": "1"}
        )

    monkeypatch.setattr(launchers, "smoke_command", command)
    monkeypatch.setattr(launchers, "require_interpreter", lambda *arguments: None)


def test_every_command_and_event_is_as_documented(
    commands: Commands, fake_server: None, tmp_path: Path
) -> None:
    of_a_published_store(commands, tmp_path / "golden")
    of_other_runs(commands, tmp_path / "runs")
    of_three_generations(commands, tmp_path / "three")
    of_reports(commands, tmp_path / "reports")
    of_directories(commands, tmp_path)
    of_recipes(commands, tmp_path)
    of_parts(commands)
    assert commands.printed == set(json_docs.COMMANDS)

    documented = {(kind, field.name) for kind in json_docs.objects() for field in fields_of(kind)}
    assert commands.shapes.seen - documented == set()
    unseen = documented - commands.shapes.seen
    # Only a worker that is interrupted or fails says so; quantize/worker/protocol.py lists it.
    rare = ("units", "differences", "message", "type", "action", "fault", "errno", "file")
    running = ("eta", "done")  # of layers and steps, as 0.1.0 did not report them
    assert unseen == {
        (values.ServerEvent, "url"),  # of a server that runs already
        (SmokeFigures, "unverified"),  # of a recipe with smoke.unverified
        (FetchFigures, "unverified"),  # of a recipe with source.unverified
        (PublishFigures, "warnings"),  # of a publish by the second of two recipes that take turns
        *((values.WorkerMessage, name) for name in (*rare, *running)),
    }


def of_a_published_store(commands: Commands, folder: Path) -> None:
    folder.mkdir()
    store, recipe = golden_store(folder), golden_recipe(folder)
    with_store = ("--store", store.root)
    done = commands("run", recipe, *with_store)
    assert (done["status"], done["digest"], len(done["stages"])) == ("up to date", DIGEST, 5)
    assert "digest" not in commands("run", recipe, *with_store, "--until", "verify")
    assert [stage["action"] for stage in commands("plan", recipe, *with_store)["stages"]] == ["reuse"] * 5
    [found] = commands("status", *with_store)
    assert found["generations"] and found["run"]["status"] == "published"
    (store.model(NAME) / f"{DAMAGED_PREFIX}x").mkdir()
    assert commands("prune", *with_store)["candidates"]
    assert commands("scrub", *with_store, status=3)["differences"]  # the checkpoint is sparse files
    [events] = store.root.glob("runs/*/*/events.jsonl")
    for line in events.read_text("utf-8").splitlines():
        commands.event(line)


def of_other_runs(commands: Commands, folder: Path) -> None:
    """One that stops, one that continues it and fails."""
    recipe = write_recipe(folder)
    store = folder / "store"
    assert commands("run", recipe, "--store", store, "--until", "fetch")["status"] == "stopped"
    without = ("--store", store, "--quantize-python", "/no/python")
    assert commands("plan", recipe, *without, status=5)["obstacles"]
    assert commands.fail("run", recipe, *without, status=5)["error"] == "PreflightError"
    [found] = commands("status", *("--store", store))
    assert found["run"]["error"]["exit_code"] == 5
    first, last = sorted(store.glob("runs/*/*/run.json"))
    commands.compare({"id": first.parent.name, **json.loads(first.read_text())}, LastRun)
    assert json.loads(first.read_text())["by"] == last.parent.name


def of_three_generations(commands: Commands, folder: Path) -> None:
    recipe = write_recipe(folder, name=RECIPE)
    store = Store(folder / "store")
    first, second, third = (published(store, content) for content in "abc")
    path = store.generation(RECIPE, second)
    path.chmod(0o755)
    (path / "model.safetensors").unlink()
    done = commands("rollback", recipe, "--store", store.root)
    assert (done["from"], done["to"], list(done["damaged"])) == (third, first, [second])


def of_reports(commands: Commands, folder: Path) -> None:
    folder.mkdir()
    store, _ = reported_store(folder)
    recipe = folder / "recipe.yaml"
    assert commands("report", recipe, "--store", store.root)["changes"]["items"]
    report = commands("report", NAME, "--store", store.root, "--generation", DIGEST[:8])
    assert report["digest"] == DIGEST
    checkpoint = shutil.copytree(ASSET, folder / "checkpoint")
    commands.compare([size.to_json() for size in sizes_by_kind(checkpoint, ASSET)], list[KindSize])
    (store.model("broken") / "current").mkdir(parents=True)
    assert len(commands("report", "--store", store.root)["recipes"]) == 2


def of_directories(commands: Commands, folder: Path) -> None:
    """The BF16 model is no good checkpoint, which gives findings; the fake server answers for any."""
    assert commands("verify", ASSET, status=3)["findings"]
    checkpoint = folder / "checkpoint"
    shutil.copytree(ASSET, checkpoint)
    probes = [{"prompt": "One", "continuation": "after One"}, {"prompt": "Two"}]
    smoke = {"probes": probes, "min_matches": 0, "serve": {"served_model_name": "tiny"}}
    recipe = write_recipe(folder, smoke=smoke)
    commands("smoke --print-command", checkpoint, "--recipe", recipe)
    assert commands("smoke", checkpoint, "--recipe", recipe, "--serve-python", sys.executable)["known"] == 1
    commands("doctor", "--store", folder / "store", "--serve-python", "/no/python", status=5)


def of_recipes(commands: Commands, folder: Path) -> None:
    assert commands("recipe list")
    commands("recipe check", TINY_RECIPE)
    commands("recipe copy", TINY_RECIPE.stem, folder / "copy.yaml")
    assert commands("recipe show", TINY_RECIPE)["name"] == TINY_RECIPE.stem
    assert commands("recipe schema")["properties"]
    commands.fail("recipe", "check", folder / "none.yaml", status=2)


def of_parts(commands: Commands) -> None:
    """What needs a real server, a benchmark or a quantized checkpoint: the part itself."""
    module = Module("model.layers.0.mlp.gate_proj", "linear", 2, 2, 0)
    fidelity = Fidelity("none", [ModuleError(module, 0.1, 0.2)]).to_json()
    memory = Memory(9, 1, 1, 1, 7, 3, "fits").to_json()
    counts = {"bytes": 1, "tensors": 1, "shards": 1}
    commands.compare({**counts, "fidelity": fidelity, "memory": memory}, ReportFigures)
    shape = {field.name for field in fields_of(BenchFigures)}
    assert shape == {*bench._KEPT, "baseline", "factor"}
    commands.compare(dict.fromkeys(shape, 1), BenchFigures)
    commands.compare(QuantizeOutput("runs/x", MANIFEST, QUALITY).to_json(), QuantizeOutput)


def test_every_command_is_in_the_page() -> None:
    names = {path.removeprefix("quantpipe ") for path, _ in leaf_commands(cli, "quantpipe")}
    assert names == {name.partition(" --")[0] for name in json_docs.COMMANDS}


def test_every_kind_of_event_in_the_code_is_in_the_page() -> None:
    found = set()
    for path in (ROOT / "quantpipe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "event"
            ):
                kind = node.args[0]
                assert isinstance(kind, ast.Constant), f"{path}:{node.lineno}"
                found.add(kind.value)
    assert found == set(json_docs.EVENTS)


def test_the_comparison_finds_what_differs() -> None:
    shapes = Shapes()
    good = {"removed": True, "bytes": 1, "candidates": []}
    assert shapes.problems(good, values.PruneJson) == []
    bads: tuple[Any, ...] = (
        {**good, "more": 1},
        {"removed": True, "bytes": 1},
        {**good, "bytes": "1"},
        {**good, "bytes": True},
        {**good, "candidates": [{"kind": "run"}]},
        [],
    )
    for bad in bads:
        assert shapes.problems(bad, values.PruneJson)
