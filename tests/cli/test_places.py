"""Stores and working directories that are not what they should be: a clear error, and no traceback."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.commands import QUANTPIPE, environment, quantpipe, write_recipe

from quantpipe.cli import cli
from quantpipe.errors import QuantpipeError


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


def a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file"


def below_a_file(folder: Path) -> Path:
    return a_file(folder) / "store"


def a_dangling_link(folder: Path) -> Path:
    (folder / "link").symlink_to("away")
    return folder / "link"


def a_loop(folder: Path) -> Path:
    (folder / "loop").symlink_to("loop")
    return folder / "loop"


def a_long_name(folder: Path) -> Path:
    return folder / ("n" * 300)


def a_long_path(folder: Path) -> Path:
    return folder / "/".join(["abcdefghi"] * 430)


PLACES: list[tuple[Callable[[Path], Path], str]] = [
    (a_file, "a component of the path is not a directory"),
    (below_a_file, "a component of the path is not a directory"),
    (a_dangling_link, "the link leads nowhere: away"),
    (a_loop, "symbolic links form a loop"),
    (a_long_name, "a name or path is too long"),
    (a_long_path, "a name or path is too long"),
]
COMMANDS = ["run", "plan", "rollback", "status", "prune", "scrub", "report"]


def called(command: str, recipe: Path) -> list[str | Path]:
    return [command, recipe] if command in ("run", "plan", "rollback") else [command]


@pytest.mark.parametrize(("place", "text"), PLACES)
def test_a_store_that_is_no_folder(
    tmp_path: Path, recipe: Path, place: Callable[[Path], Path], text: str
) -> None:
    """Every command says so, also those that only look: an empty store is something else."""
    store = place(tmp_path)
    for command in COMMANDS:
        with pytest.raises(QuantpipeError, match=text) as caught:
            arguments = [*map(str, called(command, recipe)), "--store", str(store)]
            cli.main(arguments, standalone_mode=False)
        assert caught.value.exit_code == 5, command
        assert str(store).startswith(str(caught.value.where)[:80]), command
        assert caught.value.hint, command


def test_doctor_says_so_beside_everything_else(tmp_path: Path) -> None:
    done = quantpipe("doctor", "--store", a_dangling_link(tmp_path))
    assert done.status == 5
    assert "the link leads nowhere: away" in done.stdout
    assert "memory" in done.stdout


@pytest.mark.parametrize("command", ["status", "run"])
def test_a_working_directory_that_is_gone(tmp_path: Path, recipe: Path, command: str) -> None:
    words = " ".join(map(str, called(command, recipe)))
    script = f"mkdir gone && cd gone && rmdir ../gone && exec {QUANTPIPE} {words}"
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 2
    assert "the current directory is gone, and store is relative to it" in done.stderr


@pytest.mark.parametrize("limit", [0, 1000, 600_000])
def test_a_limit_on_the_size_of_files(tmp_path: Path, recipe: Path, limit: int) -> None:
    """By RLIMIT_FSIZE, which is set in the shell or in a unit of systemd.

    Without bytecode: Python 3.11 leaves it truncated, and the next import of the checkout ends in EOFError.
    """
    done = subprocess.run(
        [str(QUANTPIPE), "run", str(recipe), "--store", str(tmp_path / "store"), "--until", "fetch"],
        capture_output=True,
        text=True,
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 5
    assert "the file would exceed the size limit" in done.stderr
    assert "ulimit -f" in done.stderr
