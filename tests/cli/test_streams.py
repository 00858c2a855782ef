"""The reader of a command's output may go away: the command continues, with its own exit status."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.commands import QUANTPIPE, environment, quantpipe, write_recipe

from quantpipe.cli import cli, main
from quantpipe.errors import RetryableError
from quantpipe.store import status

FULL = Path("/dev/full")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe")


@pytest.fixture
def nobody() -> Iterator[int]:
    """The write end of a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def call(*arguments: str | Path, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE) -> int:
    process = subprocess.Popen(
        [str(QUANTPIPE), *map(str, arguments)], stdout=stdout, stderr=stderr, env=environment()
    )
    process.communicate(timeout=120)
    return process.returncode


def assert_fetched(store: Path) -> None:
    """The run went to the end that it was asked for, and its log is complete."""
    [run] = (store / "runs").glob("*/*")
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [e["status"] for e in events if e["event"] == "stage"] == ["started", "finished"]


@pytest.mark.parametrize("options", [(), ("--json",), ("-q",), ("-v",)])
def test_a_run_outlives_its_reader(
    tmp_path: Path, recipe: Path, nobody: int, options: tuple[str, ...]
) -> None:
    """As with `quantpipe run R 2>&1 | head -1`, a tee that died, an ssh connection that broke."""
    store = tmp_path / "store"
    arguments: tuple[str | Path, ...] = ("run", recipe, "--store", store, "--until", "fetch", *options)
    assert call(*arguments, stdout=nobody, stderr=nobody) == 0
    assert_fetched(store)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_run_outlives_the_disk_of_its_log(tmp_path: Path, recipe: Path, options: tuple[str, ...]) -> None:
    store = tmp_path / "store"
    with FULL.open("wb") as full:
        arguments: tuple[str | Path, ...] = ("run", recipe, "--store", store, "--until", "fetch", *options)
        assert call(*arguments, stdout=full.fileno(), stderr=full.fileno()) == 0
    assert_fetched(store)


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_run_without_standard_streams(tmp_path: Path, recipe: Path, closed: str) -> None:
    store = tmp_path / "store"
    command = f"{QUANTPIPE} run {recipe} --store {store} --until fetch {closed}"
    done = subprocess.run(["sh", "-c", command], env=environment(), check=False, timeout=120)
    assert done.returncode == 0
    assert_fetched(store)


def test_the_exit_status_of_a_failure_does_not_need_a_reader(tmp_path: Path, nobody: int) -> None:
    missing = tmp_path / "none.yaml"
    assert call("run", missing, stderr=nobody) == 2
    assert call("run", missing, "--json", stdout=nobody) == 2
    with FULL.open("wb") as full:
        assert call("run", missing, stderr=full.fileno()) == 2


def test_data_that_cannot_be_written_is_an_error_where_it_is_all_that_was_asked_for(tmp_path: Path) -> None:
    with FULL.open("wb") as full:
        assert call("status", "--store", tmp_path, "--json", stdout=full.fileno()) == 5


def test_no_control_character_of_a_recipe_reaches_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text('name: tiny\n"k\\e]0;pwned\\a\\e[2J": 1\n')
    done = quantpipe("recipe", "check", path)
    assert done.status == 2
    assert "recipe.yaml:2:1" in done.stderr and "U+001B" in done.stderr
    assert "\x1b" not in done.stderr and "\x07" not in done.stderr


def test_a_broken_pipe_within_the_work_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broke(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(status, "collect", broke)
    with pytest.raises(RetryableError, match="broke"):
        cli.main(["status"], standalone_mode=False)


def test_an_end_of_file_within_the_work_is_no_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """click takes it for a prompt that nobody answered; quantpipe never prompts."""

    def ended(*_: object) -> None:
        raise EOFError("marshal data too short")

    monkeypatch.setattr(status, "collect", ended)
    monkeypatch.setattr("sys.argv", ["quantpipe", "status"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "unexpected EOFError: marshal data too short" in capsys.readouterr().err


HELP = [
    ("--help",),
    ("-h",),
    ("--version",),
    ("run", "--help"),
    ("recipe", "--help"),
    ("recipe", "list", "--help"),
]


@pytest.mark.parametrize("arguments", HELP)
def test_help_that_nobody_reads_to_its_end_is_no_failure(arguments: tuple[str, ...], nobody: int) -> None:
    """As with `quantpipe --help | head -1`."""
    assert call(*arguments, stdout=nobody) == 0


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("status",)])
def test_what_stdout_does_not_take_is_an_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with FULL.open("wb") as full:
        done = subprocess.run(
            [str(QUANTPIPE), *arguments],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
        )
    assert done.returncode == 5
    assert "the result cannot be written: No space left on device" in done.stderr
    assert "where: stdout" in done.stderr


@pytest.mark.parametrize("command", ["status", "report"])
def test_json_that_stdout_does_not_take_is_an_error(tmp_path: Path, command: str) -> None:
    with FULL.open("wb") as full:
        assert call(command, "--json", "--store", str(tmp_path), stdout=full.fileno()) == 5


def test_a_command_line_without_a_command_needs_no_reader_either(nobody: int) -> None:
    assert call(stderr=nobody) == 2
