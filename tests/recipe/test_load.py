from __future__ import annotations

import io
import json
import os
import shutil
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpipe import pipeline
from quantpipe.console import Console
from quantpipe.errors import RecipeError
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.model import Recipe
from quantpipe.settings import Settings

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))

GOOD = """\
# quantpipe run recipes/good.yaml
name: good
source:
  hub: local
  repo: model
quantize:
  anti_outlier:
    dataset: data/smooth.json
  calibration:
    dataset: data/scales.jsonl
verify:
  target: 0.23.0
smoke:
  serve:
    served_model_name: served
  probes:
    - prompt: One
      continuation: two
  timeouts:
    ready: 60
publish:
  keep: 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "smooth.json").write_text('["smoothing prompt"]')
    (tmp_path / "data" / "scales.jsonl").write_text('{"text": "first"}\n{"text": "second"}\n')
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(textwrap.dedent(text), "utf-8")
    return path


def problems(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text))
    assert caught.value.exit_code == 2
    assert caught.value.where is not None and caught.value.where.startswith(str(folder / "r.yaml"))
    assert caught.value.hint
    return caught.value.details


def line_of(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if part in line)


# -- the shipped recipes ------------------------------------------------------------------------------


def test_there_are_shipped_recipes() -> None:
    assert {"tiny-qwen3-moe-w8a8-rot.yaml", "qwen3-235b-w8a8-rot.yaml"} <= {path.name for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_each_shipped_recipe_loads_and_opens_with_the_line_that_runs_it(path: Path) -> None:
    first = path.read_text("utf-8").splitlines()[0]
    assert first.split(" --")[0] == f"# quantpipe run {path.stem}"
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.smoke.probes
    assert len(recipe.calibration_prompts()) == len(recipe.anti_outlier_prompts()) == 50


# -- what loads ---------------------------------------------------------------------------------------


def test_a_good_recipe_with_paths_from_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(folder, GOOD)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    recipe = load_recipe(path)
    assert recipe.source.repo == str(folder / "model")
    assert recipe.quantize.calibration.dataset.path == folder / "data" / "scales.jsonl"
    assert recipe.calibration_prompts() == ("first", "second")
    assert recipe.anti_outlier_prompts() == ("smoothing prompt",)
    monkeypatch.chdir(folder)
    assert load_recipe(Path("r.yaml")) == recipe


def test_a_model_folder_that_is_a_link_stays_that_link(folder: Path) -> None:
    (folder / "link").symlink_to("model")
    recipe = load_recipe(write(folder, GOOD.replace("repo: model", "repo: ./data/../link")))
    assert recipe.source.repo == str(folder / "link")


def test_probes_of_the_file_come_after_those_of_the_recipe(folder: Path) -> None:
    (folder / "more.json").write_text(json.dumps([{"prompt": "Two", "continuation": "three"}]))
    recipe = load_recipe(write(folder, GOOD.replace("smoke:\n", "smoke:\n  probes_file: more.json\n")))
    assert [probe.prompt for probe in recipe.smoke.probes] == ["One", "Two"]


def test_environment_values_become_text(folder: Path) -> None:
    text = GOOD.replace(
        "    served_model_name: served\n",
        '    environment: {OMP_PROC_BIND: false, N: 512, S: "True", F: 0.5}\n',
    )
    serve = load_recipe(write(folder, text)).smoke.serve
    assert serve.environment == {"OMP_PROC_BIND": "false", "N": "512", "S": "True", "F": "0.5"}


def test_merge_keys_work(folder: Path) -> None:
    text = GOOD.replace(
        "    served_model_name: served\n",
        "    hf_overrides:\n      base: &base {a: 1, b: 2}\n      more: {<<: *base, b: 3}\n",
    )
    overrides = load_recipe(write(folder, text)).smoke.serve.hf_overrides
    assert overrides == {"base": {"a": 1, "b": 2}, "more": {"a": 1, "b": 3}}


def test_a_recipe_is_frozen(folder: Path) -> None:
    recipe = load_recipe(write(folder, GOOD))
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


# -- what does not ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "bad", "key", "better"),
    [
        ("publish:", "publisch:", "publisch", "publish"),
        ("  repo: model", "  repo: model\n  include_: []", "source.include_", "include"),
        ("quantize:", "quantize:\n  rotat: true", "quantize.rotat", "rotate"),
        ("  anti_outlier:", "  anti_outlier:\n    metod: none", "quantize.anti_outlier.metod", "method"),
        ("  calibration:", "  calibration:\n    limits: 3", "quantize.calibration.limits", "limit"),
        ("verify:", "verify:\n  deeper: true", "verify.deeper", "deep"),
        ("smoke:", "smoke:\n  luncher: cpu", "smoke.luncher", "launcher"),
        ("  serve:", "  serve:\n    max_model_length: 9", "smoke.serve.max_model_length", "max_model_len"),
        ("      continuation: two", "      continuatoin: two", "smoke.probes.0.continuatoin", "continuation"),
        ("    ready: 60", "    raedy: 60", "smoke.timeouts.raedy", "ready"),
        ("  keep: 3", "  keeps: 3", "publish.keeps", "keep"),
    ],
)
def test_an_unknown_key_in_any_section(folder: Path, good: str, bad: str, key: str, better: str) -> None:
    text = GOOD.replace(good, bad)
    [problem] = problems(folder, text)
    line = line_of(text, key.rpartition(".")[2])
    assert problem == f"r.yaml:{line}: {key}: unknown key, did you mean `{better}`?"


def test_a_key_that_resembles_nothing(folder: Path) -> None:
    [problem] = problems(folder, GOOD + "xyzzy: 1\n")
    assert problem.endswith("xyzzy: unknown key")


def test_all_problems_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = """\
    name: Bad Name
    source:
      hub: gitlab
      repo: model
    quantize:
      rotat: yes
      part_size: large
      anti_outlier:
        dataset: data/nowhere.json
    smoke:
      probes_file: nothing.json
      probes:
        - prompt: fine
        - prompt: ""
          max_tokens: 0
    publish:
      keep: 1
    """
    found = problems(folder, text)
    keys = [problem.split(": ")[1] for problem in found]
    assert keys == [
        "name",
        "source.hub",
        "quantize.calibration",
        "quantize.rotat",
        "quantize.part_size",
        "quantize.anti_outlier.dataset",
        "smoke.probes_file",
        "smoke.probes.1.prompt",
        "smoke.probes.1.max_tokens",
        "publish.keep",
    ]
    lines = [int(problem.split(":")[1]) for problem in found]
    assert lines == [1, 3, 5, 6, 7, 9, 11, 14, 15, 17]


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("  keep: 3", "  keep: many", "valid integer"),
        ("  keep: 3", "  keep: 1", "greater than or equal to 2 (got 1)"),
        ("  hub: local", "  hub: huggingfase", "'huggingface'"),
        ("verify:\n  target: 0.23.0", "verify:\n  target: 0.23", "valid string"),
        ("source:\n  hub: local\n  repo: model", "source: model", "valid dictionary"),
        ("    ready: 60", "    ready: -1", "greater than 0"),
        ("      continuation: two", "      continuation: ' '", "(got ' ')"),
        ("name: good", "name: 12", "valid string (got 12)"),
        ("  hub: local\n  repo: model", "  hub: modelscope\n  repo: model", "owner/name"),
        ("  repo: model", "  repo: model\n  revision: main", "a local source has no revision"),
        ("quantize:", "quantize:\n  device: gpu", "got 'gpu'"),
        ("quantize:", "quantize:\n  device: 'npu:0,'", "got 'npu:0,'"),
    ],
)
def test_wrong_values_say_what_is_wanted(folder: Path, good: str, bad: str, said: str) -> None:
    assert good in GOOD
    [problem] = problems(folder, GOOD.replace(good, bad))
    assert said in problem


@pytest.mark.parametrize("name", ["quantize.calibration", "source", "name"])
def test_a_missing_key_is_named(folder: Path, name: str) -> None:
    text = {
        "quantize.calibration": GOOD.replace("  calibration:\n    dataset: data/scales.jsonl\n", ""),
        "source": GOOD.replace("source:\n  hub: local\n  repo: model\n", ""),
        "name": GOOD.replace("name: good\n", ""),
    }[name]
    [problem] = problems(folder, text)
    assert problem.endswith(f"{name}: this key is required")


def test_missing_files_are_all_named_with_key_and_line(folder: Path) -> None:
    text = (
        GOOD.replace("repo: model", "repo: no-model")
        .replace("smooth.json", "none.json")
        .replace("scales.jsonl", "nope.jsonl")
    )
    found = problems(folder, text)
    assert found == (
        f"r.yaml:5: source.repo: no such file or folder: {folder}/no-model",
        f"r.yaml:8: quantize.anti_outlier.dataset: no such file or folder: {folder}/data/none.json",
        f"r.yaml:10: quantize.calibration.dataset: no such file or folder: {folder}/data/nope.jsonl",
    )


def test_a_wrong_probes_file_is_an_error_of_loading(folder: Path) -> None:
    (folder / "probes.json").write_text('[{"promt": "x"}]')
    with pytest.raises(RecipeError, match="2 problems") as caught:
        load_recipe(write(folder, GOOD.replace("smoke:\n", "smoke:\n  probes_file: probes.json\n")))
    assert caught.value.where == str(folder / "probes.json")
    assert caught.value.details[1] == "probes.json: 0.promt: unknown key, did you mean `prompt`?"


def test_the_problems_of_a_dataset_stand_among_those_of_the_recipe(folder: Path) -> None:
    (folder / "data" / "smooth.json").write_text('["a",\n 3,\n ""]')
    found = problems(folder, GOOD.replace("keep: 3", "keep: 1").replace("scales.jsonl", "nope.jsonl"))
    key = "r.yaml:8: quantize.anti_outlier.dataset: smooth.json: line"
    assert [problem.partition("; ")[0] for problem in found[:2]] == [
        f"{key} 2: item 2: found a number",
        f"{key} 3: item 3: empty prompt",
    ]
    assert [problem.split(": ")[1] for problem in found[2:]] == [
        "quantize.calibration.dataset",
        "publish.keep",
    ]


def test_a_wrong_dataset_is_an_error_of_loading(folder: Path) -> None:
    (folder / "data" / "smooth.json").write_text('["a", 3]')
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, GOOD))
    assert (caught.value.where or "").startswith(str(folder / "data" / "smooth.json"))
    said = " ".join([caught.value.what, caught.value.where or "", *caught.value.details])
    assert "line 1" in said and "number" in said


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("name: a\nsource: {\n", ":3:1", "expected the node content"),
        ("name: a\nname: b\n", ":2:1", "duplicate key 'name'"),
        ("name: a\nsource:\n  hub: local\n  repo: x\n  hub: local\n", ":5:3", "duplicate key 'hub'"),
        ("name: a\n\tsource: b\n", ":2:1", "cannot start any token"),
        ("name: *nothing\n", ":1:7", "undefined alias"),
        ("name: a\n---\nname: b\n", ":2:1", "another document"),
        ("name: !!python/object:os.system a\n", ":1:7", "could not determine a constructor"),
        ("name: \x01\n", "", "special characters"),
        ('"so\\eurce": a\n', ":1:1", "control character U+001B"),
        ('source: {repo: "a/b\\0"}\n', ":1:16", "control character U+0000"),
        ('name: "\\ud800"\n', ":1:7", "control character U+D800"),
        ("name: &a {b: *a}\n", ":1:7", "contains itself"),
        ("name: " + "[" * 1500, ":1:56", "more than 50 levels"),
        ("- x\n" * 20_000, ":10000:3", "more than 10,000 values"),
        ("name: !!set {a}\n", ":1:7", "no !!set"),
        ("name: .inf\n", ":1:7", "not a finite number"),
        ("name: 0x" + "f" * 40, ":1:7", "too large"),
    ],
)
def test_broken_yaml_is_told_with_its_place(folder: Path, text: str, place: str, said: str) -> None:
    with pytest.raises(RecipeError, match="not valid YAML") as caught:
        load_recipe(write(folder, text))
    assert caught.value.where == f"{folder / 'r.yaml'}{place}"
    assert said in (caught.value.hint or "")


@pytest.mark.parametrize(
    "text", ["name: 2024-13-45\n", "[a, b]: c\n", "name: &a {b: *a}\n", "name: " + "[" * 1500, "{1: 2, x: 3}"]
)
def test_odd_yaml_is_a_recipe_error_too(folder: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write(folder, text))


def bomb(first: str, again: str) -> str:
    """Anchors a to j; each of the others stands for ten of the one before."""
    lines = [f"a: &a {first}"]
    for before, name in zip("abcdefghi", "bcdefghij", strict=True):
        lines.append(f"{name}: &{name} " + again.replace("...", ", ".join([f"*{before}"] * 10)))
    return "\n".join(lines)


@pytest.mark.parametrize("text", [bomb("[1, 2]", "[...]"), bomb("{x: 1}", "{<<: [...]}")])
def test_few_lines_that_stand_for_a_billion_values(folder: Path, text: str) -> None:
    assert len(text) < 700
    began = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(folder, text))
    assert time.monotonic() - began < 1
    assert "more than 10,000 values" in (caught.value.hint or "")


def test_a_recipe_is_a_plain_file_of_a_plain_size(folder: Path) -> None:
    os.mkfifo(folder / "pipe.yaml")
    for path in (folder / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(RecipeError, match="not a plain file"):
            load_recipe(path)
    with pytest.raises(RecipeError, match="more than 262,144"):
        load_recipe(write(folder, "#" * 300_000))
    with pytest.raises(RecipeError):
        load_recipe("x" * 5000)


def test_paths_that_no_file_can_have(folder: Path) -> None:
    for path in ("x" * 5000, "~nobody-has-this-name/x"):
        text = GOOD.replace("data/smooth.json", path)
        assert text != GOOD
        with pytest.raises(RecipeError, match="1 problem") as caught:
            load_recipe(write(folder, text))
        assert "no such file" in caught.value.details[0]


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n- b\n", "just text\n"])
def test_a_file_that_is_no_mapping(folder: Path, text: str) -> None:
    with pytest.raises(RecipeError, match="mapping of sections"):
        load_recipe(write(folder, text))


def test_no_such_recipe_offers_a_similar_one(folder: Path) -> None:
    write(folder, GOOD)
    with pytest.raises(RecipeError, match="no such file") as caught:
        load_recipe(folder / "rr.yaml")
    assert caught.value.hint == f"did you mean {folder / 'r.yaml'}?"
    with pytest.raises(RecipeError) as caught:
        load_recipe(folder / "no-folder" / "x.yaml")
    assert "recipe list" in (caught.value.hint or "")


def test_a_folder_is_no_recipe(folder: Path) -> None:
    with pytest.raises(RecipeError, match="directory"):
        load_recipe(folder)


def test_a_recipe_that_is_not_utf8(folder: Path) -> None:
    (folder / "r.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(RecipeError, match="not UTF-8 at byte 6"):
        load_recipe(folder / "r.yaml")


def test_what_show_prints_loads_again(folder: Path) -> None:
    """`recipe show` gives the recipe with its defaults and all probes; a user starts from that."""
    import yaml

    (folder / "more.json").write_text(json.dumps([{"prompt": "Two", "continuation": "three"}]))
    recipe = load_recipe(write(folder, GOOD.replace("smoke:\n", "smoke:\n  probes_file: more.json\n")))
    again = load_recipe(write(folder, yaml.safe_dump(recipe.model_dump(mode="json"))))
    assert again == recipe
    assert isinstance(again, Recipe)


# -- a loaded recipe is a value -------------------------------------------------------------------------


def test_nothing_that_happens_to_its_files_changes_a_loaded_recipe(folder: Path) -> None:
    (folder / "more.json").write_text(json.dumps([{"prompt": "Two", "continuation": "three"}]))
    recipe = load_recipe(write(folder, GOOD.replace("smoke:\n", "smoke:\n  probes_file: more.json\n")))
    digest, inputs = recipe.digest(), recipe.stage_inputs()
    shutil.rmtree(folder)
    assert (recipe.digest(), recipe.stage_inputs()) == (digest, inputs)
    assert recipe.calibration_prompts() == ("first", "second")
    assert recipe.anti_outlier_prompts() == ("smoothing prompt",)
    assert [probe.prompt for probe in recipe.smoke.probes] == ["One", "Two"]


def test_each_file_of_a_recipe_is_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def counting(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(file: Any, *args: Any, **kwargs: Any) -> Any:
            if str(file).startswith(str(folder)):  # not what a thread of pytest opens meanwhile
                opened.append(Path(file).name)
            return original(file, *args, **kwargs)

        return counted

    path = write(folder, GOOD)
    monkeypatch.setattr(io, "open", counting(io.open))
    monkeypatch.setattr(os, "open", counting(os.open))
    recipe = load_recipe(path)
    recipe.digest()
    recipe.stage_inputs()
    assert sorted(opened) == ["r.yaml", "scales.jsonl", "smooth.json"]


@pytest.mark.quantize_env
def test_a_dataset_that_changes_during_a_run_changes_nothing(
    quantized_store: Path, small_recipe: Path, quantize_python: Path, tmp_path: Path
) -> None:
    """Key, receipt and checkpoint are of the content at load."""
    folder = tmp_path / "recipe"
    shutil.copytree(small_recipe.parent, folder)
    recipe = load_recipe(folder / small_recipe.name)
    for name in ("calibration", "anti_outlier"):
        (folder / f"{name}.json").write_text('["another prompt"]')
    settings = Settings(store=tmp_path / "changed", quantize_python=quantize_python)
    outcome = pipeline.run(recipe, settings, Console("quiet"), pipeline.Selection(last="quantize"))
    [run] = (quantized_store / "runs" / recipe.name).iterdir()
    undisturbed = json.loads((run / "receipts" / "quantize.json").read_text("utf-8"))
    receipt = outcome.receipts["quantize"].to_json()
    assert receipt["key"] == undisturbed["key"]
    assert receipt["outputs"]["manifest"] == undisturbed["outputs"]["manifest"]
    assert load_recipe(folder / small_recipe.name).digest() != recipe.digest()
