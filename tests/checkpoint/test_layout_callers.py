"""Verify's check and the smoke rules give one answer to "does this layout divide", which is vLLM's."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from verify.shapes import from_shapes

from checkpoint.configs import CONFIG
from quantpipe.checkpoint.layout import Layout, indivisible, layout_of_serve
from quantpipe.recipe.serve import Serve
from quantpipe.recipe.smoke import Smoke
from quantpipe.smoke.model import ModelFigures
from quantpipe.smoke.rules import broken_rules
from quantpipe.verify.checks.all import all_checks
from quantpipe.verify.examination import Examination

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 24, "num_key_value_heads": 4, "head_dim": 8}
MODELS: dict[str, dict[str, Any]] = {
    "moe": {**CONFIG, **SIZES, "moe_intermediate_size": 12},
    "moe with a dense layer": {
        **CONFIG,
        **SIZES,
        "moe_intermediate_size": 48,
        "intermediate_size": 20,
        "mlp_only_layers": [0],
    },
    "dense": {**CONFIG, **SIZES, "model_type": "qwen3", "intermediate_size": 36},
}
GRID = list(product((1, 2, 3, 4, 6, 8, 12), (1, 2, 3, 4, 8), (False, True)))
DIVISIBLE = next(check for check in all_checks() if check.id == "A10")


def by_vllm(config: dict[str, Any], tp: int, dp: int, ep: bool) -> bool:
    """Whether vLLM starts: QKVParallelLinear, FusedMoEParallelConfig.make and MergedColumnParallelLinear."""
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    moe = config["model_type"] == "qwen3_moe"
    if heads % tp or (kv % tp if kv >= tp else tp % kv):
        return False
    if (not moe or config.get("mlp_only_layers")) and config["intermediate_size"] % tp:
        return False
    if not moe:
        return True
    return bool(config["num_experts"] >= tp * dp if ep else config["moe_intermediate_size"] % (tp * dp) == 0)


@pytest.mark.parametrize("name", MODELS)
def test_one_answer(name: str) -> None:
    config = MODELS[name]
    model, figures = from_shapes(config), ModelFigures.of(config)
    answers = set()
    for tp, dp, ep in GRID:
        serve = Serve(tensor_parallel_size=tp, data_parallel_size=dp, enable_expert_parallel=ep)
        layout = layout_of_serve(serve)
        assert layout == Layout(tp=tp, dp=dp, ep=ep)
        broken = [f"{text}: {numbers}" for text, numbers in indivisible(model.dims, layout)]
        examination = Examination(model.checkpoint, model.target, model=model, layout=layout)
        found = DIVISIBLE.findings(examination)
        rules = [
            broken.text for broken in broken_rules(Smoke(serve=serve), figures) if broken.rule == "divides"
        ]
        assert found is not None
        assert [f"{finding.text}: {finding.detail}" for finding in found] == rules == broken
        assert (not broken) is by_vllm(config, tp, dp, ep), (tp, dp, ep)
        answers.add(not broken)
    assert answers == {True, False}


def test_experts_are_divided_by_all_devices() -> None:
    """Where the two once differed: 12 wide experts, tp 2, dp 4, no expert parallel."""
    serve = Serve(tensor_parallel_size=2, data_parallel_size=4)
    rules = {broken.rule for broken in broken_rules(Smoke(serve=serve), ModelFigures.of(MODELS["moe"]))}
    assert "divides" in rules
