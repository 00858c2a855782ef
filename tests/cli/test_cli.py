"""What a user types and sees: help, typos, exit codes, JSON, and a no-op that imports nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import ROOT, TINY_RECIPE, environment, quantpipe, write_recipe

COMMANDS = ("run", "plan", "status", "verify", "smoke", "rollback", "prune", "scrub", "doctor", "recipe")


def test_help_names_every_command() -> None:
    done = quantpipe("--help")
    assert done.status == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = quantpipe(command, "--help")
    assert done.status == 0
    assert "Usage: quantpipe" in done.stdout


def test_unknown_option_is_a_usage_error() -> None:
    done = quantpipe("run", TINY_RECIPE, "--forse", "quantize")
    assert done.status == 2
    assert "--force" in done.stderr


def test_missing_recipe_names_the_file_and_a_similar_one(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    done = quantpipe("run", recipe.with_name("recipr.yaml"))
    assert done.status == 2
    assert "recipr.yaml" in done.stderr
    assert f"did you mean {recipe}?" in done.stderr


def test_all_problems_of_a_recipe_at_once_with_line_and_key(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    text = recipe.read_text("utf-8").replace("rotate:", "rotat:").replace("keep: 2", "keep: 1")
    recipe.write_text(text.replace("hub: local", "hub: huggingfase"), "utf-8")
    done = quantpipe("recipe", "check", recipe)
    assert done.status == 2
    lines = text.splitlines()
    for key, hint in (
        ("quantize.rotat", "did you mean `rotate`?"),
        ("publish.keep", "greater than or equal to 2"),
        ("source.hub", "huggingfase"),
    ):
        number = 1 + next(
            i for i, line in enumerate(lines) if line.strip().startswith(key.split(".")[1] + ":")
        )
        line = next(line for line in done.stderr.splitlines() if f" {key}: " in line)
        assert f"recipe.yaml:{number}: " in line
        assert hint in line


def test_errors_are_json_on_request(tmp_path: Path) -> None:
    done = quantpipe("run", tmp_path / "none.yaml", "--json")
    assert done.status == 2
    assert done.json()["exit_code"] == 2
    assert done.json()["where"] == str(tmp_path / "none.yaml")


def test_bad_environment_variable_is_named(tmp_path: Path) -> None:
    done = quantpipe("status", "--store", tmp_path, QUANTPIPE_JOBS="many")
    assert done.status == 2
    assert "QUANTPIPE_JOBS" in done.stderr


def test_plan_writes_nothing_and_tells_of_every_stage(tmp_path: Path) -> None:
    done = quantpipe("plan", TINY_RECIPE, "--store", tmp_path / "store", "--json")
    plan = done.json()
    assert [stage["stage"] for stage in plan["stages"]] == ["fetch", "quantize", "verify", "smoke", "publish"]
    assert plan["disk_bytes"] > 0
    assert plan["memory_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_plan_says_that_engine_stock_takes_one_dataset(tmp_path: Path) -> None:
    for engine, said in (("streaming", False), ("stock", True)):
        recipe = write_recipe(tmp_path, quantize={"engine": engine})
        plan = quantpipe("plan", recipe, "--store", tmp_path / "store", "--json").json()
        assert any("one dataset" in note for stage in plan["stages"] for note in stage["notes"]) is said


def test_plan_of_an_npu_recipe_fails_on_a_host_without_npu(tmp_path: Path) -> None:
    if list(Path("/dev").glob("davinci[0-9]*")):
        pytest.skip("this host has NPUs")
    recipe = write_recipe(tmp_path, quantize={"device": "npu"})
    done = quantpipe("plan", recipe, "--store", tmp_path / "store")
    assert done.status == 5
    assert "no NPU on this host" in done.stderr + done.stdout


def test_status_of_an_empty_store(tmp_path: Path) -> None:
    assert quantpipe("status", "--store", tmp_path / "store").status == 0
    assert quantpipe("status", "--store", tmp_path / "store", "--json").json() == []


def test_recipe_list_names_the_shipped_ones() -> None:
    done = quantpipe("recipe", "list")
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert str(path) in done.stdout


def test_recipe_show_fills_in_defaults() -> None:
    shown = quantpipe("recipe", "show", TINY_RECIPE, "--json").json()
    assert shown["smoke"]["serve"]["data_parallel_size"] == 1
    assert shown["quantize"]["trust_remote_code"] is False


def test_doctor_looks_at_everything_and_leaves_nothing(tmp_path: Path) -> None:
    done = quantpipe("doctor", "--store", tmp_path / "store", "--json", "--serve-python", "/no/python")
    findings = {finding["subject"]: finding for finding in done.json()}
    assert done.status == 5
    assert findings["serve interpreter"]["ok"] is False
    assert "QUANTPIPE_SERVE_PYTHON" in findings["serve interpreter"]["hint"]
    assert findings["store semantics"]["ok"] is True
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['quantpipe', '--help']\n"
        "from quantpipe.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'vllm', 'transformers', 'msmodelslim', 'huggingface_hub', 'pydantic', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert done.stderr.strip() == "[]"


def test_json_output_is_one_document(tmp_path: Path) -> None:
    done = quantpipe("doctor", "--store", tmp_path, "--json")
    assert isinstance(json.loads(done.stdout), list)


def test_runs_from_another_folder(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quantpipe", "recipe", "check", os.path.relpath(TINY_RECIPE, tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_store_that_is_a_file_is_no_bug(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    done = quantpipe("run", write_recipe(tmp_path), "--store", tmp_path / "store")
    assert done.status == 5
    assert "Traceback" not in done.stderr
    assert "a component of the path is not a directory" in done.stderr


def test_a_command_line_that_does_not_parse_is_json_on_request() -> None:
    done = quantpipe("run", "--json", "--nonsense")
    assert done.status == 2
    assert done.json()["status"] == "failed"
    assert (done.json()["error"], done.json()["exit_code"]) == ("UsageError", 2)
    assert done.stderr == ""


LIMITED = """
import sys
from quantpipe.cli import main, status
def limited(*_, **__):
    raise {error}
status.status.callback = limited
sys.argv = ["quantpipe", "status"]
main()
"""


@pytest.mark.parametrize("error", ["MemoryError()", 'RuntimeError("can\'t start new thread")'])
def test_a_limit_of_the_host_is_no_bug(error: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED.format(error=error)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5, done.stderr
    assert "out of memory" in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr
