from __future__ import annotations

from pathlib import Path

import pytest
from helpers.commands import ROOT, quantpipe

from quantpipe.errors import RecipeError
from quantpipe.recipe import shipped
from quantpipe.recipe.load import load_recipe as load

TINY = "tiny-qwen3-moe-w8a8-rot"


def test_the_assets_link_to_the_folders_at_the_top() -> None:
    for folder in ("recipes", "calib_data"):
        link = ROOT / "quantpipe" / "assets" / folder
        assert link.is_symlink()
        assert link.resolve() == ROOT / folder


def test_the_shipped_recipes_are_those_of_the_folder() -> None:
    assert shipped.recipes() == {path.stem: path for path in sorted((ROOT / "recipes").glob("*.yaml"))}


def test_a_recipe_is_a_path_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(TINY) == load(ROOT / "recipes" / f"{TINY}.yaml")


def test_an_existing_file_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / TINY).write_text("name: mine\n")
    assert shipped.find_recipe(TINY) == Path(TINY)


def test_a_folder_of_that_name_does_not_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / TINY).mkdir()
    assert shipped.find_recipe(TINY) == ROOT / "recipes" / f"{TINY}.yaml"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("tiny-qwen3-moe-w8a8", f"did you mean {TINY}"),
        ("xyzzy", "shipped recipes: qwen2.5-7b-instruct-w8a8-rot, qwen3-235b-w8a8-rot, "),
        ("my", "did you mean my.yaml?"),
        (f"{TINY}.yaml", f"by its name: {TINY}"),
        (f"recipes/{TINY}.yaml", f"by its name: {TINY}"),
    ],
)
def test_what_is_neither_gets_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").touch()
    with pytest.raises(RecipeError, match="no such file") as caught:
        load(given)
    assert hint in (caught.value.hint or "")


def test_builtin_names_by_role() -> None:
    assets = ROOT / "quantpipe" / "assets"
    assert shipped.builtin("builtin:tiny-qwen3-moe", "source") == assets / "tiny-qwen3-moe"
    assert shipped.builtin("builtin:tiny-qwen3-moe", "probes") == assets / "tiny-qwen3-moe.probes.json"
    assert shipped.builtin("builtin:calibration", "dataset") == ROOT / "calib_data" / "calibration.json"
    assert shipped.builtin("calibration", "dataset") is None


def test_a_builtin_name_that_does_not_exist_is_a_problem_of_its_line(tmp_path: Path) -> None:
    text = (ROOT / "recipes" / f"{TINY}.yaml").read_text("utf-8")
    (tmp_path / "r.yaml").write_text(text.replace("builtin:calibration", "builtin:calibratoin"))
    with pytest.raises(RecipeError) as caught:
        load(tmp_path / "r.yaml")
    [problem] = caught.value.details
    assert problem.startswith(
        "r.yaml:17: quantize.calibration.dataset: quantpipe ships no dataset named builtin:calibratoin"
    )
    assert "available: builtin:anti_outlier, builtin:calibration, builtin:held_out" in problem


@pytest.mark.parametrize(
    "arguments",
    [
        ("recipe", "check", TINY),
        ("recipe", "show", TINY),
        ("status", TINY),
        ("plan", TINY, "--json", "--quantize-python", "/no/python"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_commands_take_the_name(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = quantpipe(*arguments, QUANTPIPE_STORE=str(tmp_path / "store"))
    assert done.status in (0, 5), done.stderr  # 5: the plan found that the interpreter is missing
    assert "Error" not in done.stderr
