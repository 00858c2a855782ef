from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.commands import quantpipe

from quantpipe.errors import RecipeError, UsageError
from quantpipe.recipe.copy import copy_recipe
from quantpipe.recipe.load import load_recipe as load
from quantpipe.recipe.shipped import recipes


@pytest.mark.parametrize("name", recipes())
def test_a_copy_loads_from_any_folder_and_builds_the_same(tmp_path: Path, name: str) -> None:
    path = copy_recipe(name, tmp_path / "my.yaml")
    copied, original = load(path), load(name)
    assert copied.name == "my"
    assert copied.model_copy(update={"name": name}) == original
    assert copied.digest() == original.digest()


def test_a_copy_says_how_to_run_and_to_edit_it(tmp_path: Path) -> None:
    path = copy_recipe("qwen3-235b-w8a8-rot", tmp_path / "my.yaml")
    lines = path.read_text("utf-8").splitlines()
    assert lines[0] == "# yaml-language-server: $schema=recipe.schema.json"
    assert "# quantpipe run my.yaml --store /mnt/weights" in lines
    assert not any("\nname: qwen3" in line for line in lines)


def test_a_folder_takes_the_file_under_its_own_name(tmp_path: Path) -> None:
    assert copy_recipe("qwen3-32b-w8a8-rot", tmp_path) == tmp_path / "qwen3-32b-w8a8-rot.yaml"


def test_a_file_name_that_is_no_recipe_name_keeps_the_old_name(tmp_path: Path) -> None:
    assert load(copy_recipe("qwen3-32b-w8a8-rot", tmp_path / "My Recipe.yaml")).name == "qwen3-32b-w8a8-rot"


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("mine")
    with pytest.raises(UsageError, match="already exists") as caught:
        copy_recipe("qwen3-32b-w8a8-rot", path)
    assert "--force" in (caught.value.hint or "")
    assert path.read_text() == "mine"
    copy_recipe("qwen3-32b-w8a8-rot", path, force=True)
    assert load(path).name == "my"
    assert [entry.name for entry in tmp_path.iterdir()] == ["my.yaml"]


def test_what_cannot_be_copied(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no shipped recipe") as caught:
        copy_recipe("qwen3-32b", tmp_path / "my.yaml")
    assert "did you mean qwen3-32b-w8a8-rot" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no such folder"):
        copy_recipe("qwen3-32b-w8a8-rot", tmp_path / "none" / "my.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UsageError, match="cannot be written"):
        copy_recipe("qwen3-32b-w8a8-rot", tmp_path / "my.yaml")


def test_the_command(tmp_path: Path) -> None:
    done = quantpipe("recipe", "copy", "qwen3-235b-w8a8-rot", tmp_path / "my.yaml")
    assert done.stdout == f"{tmp_path}/my.yaml: a copy of qwen3-235b-w8a8-rot, named my\n"
    again = quantpipe("recipe", "copy", "qwen3-235b-w8a8-rot", tmp_path / "my.yaml")
    assert again.status == 2
    assert quantpipe("recipe", "check", tmp_path / "my.yaml").status == 0
