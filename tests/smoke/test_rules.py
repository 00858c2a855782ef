from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ROOT
from helpers.configs import QWEN3_235B, QWEN25_7B

from quantpipe.checkpoint.dims import read_dims
from quantpipe.errors import PreflightError, RecipeError
from quantpipe.host import machine
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.serve import Serve
from quantpipe.recipe.smoke import Smoke
from quantpipe.smoke.model import ModelFigures, read_model
from quantpipe.smoke.rules import broken_rules, require_rules

CONFIG: dict[str, Any] = {**QWEN3_235B, "quantize": "w8a8_dynamic"}
MODEL = ModelFigures.of(CONFIG, 237_101_554_144)
YARN = {"rope_type": "yarn", "rope_theta": 1000000, "factor": 4, "original_max_position_embeddings": 32768}
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host without NPUs, whose driver's folder a test may fill."""
    monkeypatch.setattr(machine, "NPU_DEVICES", tmp_path)
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)
    return tmp_path


def smoke(serve: dict[str, Any], **section: Any) -> Smoke:
    return Smoke(
        serve=Serve(**{"tensor_parallel_size": 8, "enable_expert_parallel": True, **serve}), **section
    )


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_the_recipes_keep_the_rules(path: Path) -> None:
    section = load_recipe(path).smoke
    assert broken_rules(section, None) == []
    if "235b" in path.name:
        assert broken_rules(section, MODEL) == []
        for hardware in ("a2", "a3"):
            assert broken_rules(section.model_copy(update={"hardware": hardware}), MODEL) == []
    if "qwen2.5" in path.name:
        assert broken_rules(section, ModelFigures.of(QWEN25_7B, 8_700_000_000)) == []


@pytest.mark.parametrize(
    ("rule", "serve", "section", "said"),
    [
        ("expert-parallel", {"enable_expert_parallel": False}, {}, "128 experts .* over 8 devices"),
        ("yarn", {"max_model_len": 131072}, {}, "beyond the model's native 40960"),
        ("yarn", {"max_model_len": 200_000, "hf_overrides": {"rope_parameters": YARN}}, {}, "reaches 131072"),
        ("yarn", {"max_model_len": 50_000, "hf_overrides": {"rope_parameters": {}}}, {}, "without YaRN"),
        ("fused-mc2", {"additional_config": {"enable_fused_mc2": 1}}, {"hardware": "a2"}, "hardware is a2"),
        ("fused-mc2", {"additional_config": {"enable_fused_mc2": 1}}, {}, "hardware is None"),
        ("fused-mc2", {"additional_config": {"enable_fused_mc2": 3}}, {"hardware": "a3"}, "is 3"),
        ("divides", {"tensor_parallel_size": 6}, {}, "attention heads are not divisible .*: 64 heads, tp 6"),
        ("divides", {"tensor_parallel_size": 6}, {}, "tp 6 is not a multiple of 4 KV heads"),
        ("devices", {"environment": {"ASCEND_RT_VISIBLE_DEVICES": "0,1,2,3"}}, {}, "is 8, .* names 4"),
        ("devices", {"tensor_parallel_size": 16}, {"hardware": "a2"}, "an a2 server has 8"),
        ("devices", {"environment": {"ASCEND_RT_VISIBLE_DEVICES": "8,9"}}, {"hardware": "a2"}, "number 9"),
        ("weights-fit", {"tensor_parallel_size": 4}, {"device_memory": 32}, "of each device"),
    ],
)  # fmt: skip
def test_each_rule(rule: str, serve: dict[str, Any], section: dict[str, Any], said: str) -> None:
    found = [problem for problem in broken_rules(smoke(serve, **section), MODEL) if problem.rule == rule]
    assert found and all(problem.fix for problem in found)
    assert any(re.search(said, problem.text) for problem in found)
    assert broken_rules(smoke({}, hardware="a3"), MODEL) == []


@pytest.mark.parametrize(
    ("serve", "section"),
    [
        ({"max_model_len": 131072, "hf_overrides": {"rope_parameters": YARN}}, {}),
        ({"max_model_len": 40960}, {}),
        ({"additional_config": {"enable_fused_mc2": 2}}, {"hardware": "a3"}),
        ({"additional_config": {"enable_fused_mc2": 0}}, {"hardware": "a2"}),
        ({"tensor_parallel_size": 4, "data_parallel_size": 4}, {"hardware": "a3"}),
        ({"tensor_parallel_size": 1, "enable_expert_parallel": False}, {"device_memory": 640}),
        ({"max_model_len": 999_999}, {"launcher": "attach", "url": "http://x:1"}),
        ({"tensor_parallel_size": 2, "enable_expert_parallel": False}, {"launcher": "cpu"}),
    ],
)
def test_what_keeps_the_rules(serve: dict[str, Any], section: dict[str, Any]) -> None:
    assert broken_rules(smoke(serve, **section), MODEL) == []


def test_a_2507_model_needs_no_yarn() -> None:
    model = ModelFigures.of({**CONFIG, "max_position_embeddings": 262144}, 1)
    assert broken_rules(smoke({"max_model_len": 131072}), model) == []


def test_a_model_whose_own_config_has_yarn() -> None:
    model = ModelFigures.of({**CONFIG, "rope_scaling": YARN}, 1)
    assert broken_rules(smoke({"max_model_len": 131072}), model) == []


def test_a_model_that_is_not_w8a8_has_no_fused_mc2() -> None:
    model = ModelFigures.of({**CONFIG, "quantize": "w4a8_dynamic"}, 1)
    serve = {"additional_config": {"enable_fused_mc2": 1}}
    (problem,) = broken_rules(smoke(serve, hardware="a3"), model)
    assert "not W8A8" in problem.text


def test_experts_without_expert_parallel_are_divided_themselves() -> None:
    model = ModelFigures.of({**CONFIG, "moe_intermediate_size": 1500}, 1)
    found = broken_rules(smoke({"enable_expert_parallel": False}), model)
    assert [problem.rule for problem in found] == ["expert-parallel", "divides"]


def test_devices_of_this_machine(no_devices: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (no_devices / f"davinci{number}").touch()
    (problem,) = broken_rules(smoke({}), MODEL)
    assert problem.host and "shows 4 devices" in problem.text
    with pytest.raises(PreflightError, match="shows 4 devices"):
        require_rules(smoke({}), MODEL)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "0,1")
    assert any("names 2 devices" in problem.text for problem in broken_rules(smoke({}), MODEL))
    assert not any(
        "names 2" in p.text for p in broken_rules(smoke({}, launcher="docker", hardware="a2"), MODEL)
    )


def test_all_problems_at_once_and_nothing_without_figures() -> None:
    wrong = smoke({"tensor_parallel_size": 6, "max_model_len": 10**6, "enable_expert_parallel": False})
    with pytest.raises(RecipeError, match="rules are broken") as caught:
        require_rules(wrong, MODEL)
    rules = {line.partition(":")[0] for line in caught.value.details}
    assert rules == {"expert-parallel", "yarn", "divides"}
    require_rules(wrong, None)


def test_figures_of_a_directory(tmp_path: Path) -> None:
    assert read_model(tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "a.safetensors").write_bytes(bytes(100))
    found = read_model(tmp_path)
    assert found is not None
    assert found.dims == read_dims(CONFIG)
    assert found.weight_bytes == 100
    (tmp_path / "config.json").write_text("[1]")
    assert read_model(tmp_path) is None


@pytest.mark.parametrize("config", [{}, {"num_attention_heads": "x", "num_experts": -1, "rope_scaling": 3}])
def test_an_odd_config_applies_no_rule(config: dict[str, Any]) -> None:
    assert broken_rules(smoke({"max_model_len": 10**6}), ModelFigures.of(config)) == []
