from __future__ import annotations

from collections import Counter

from helpers.configs import QWEN3_235B, QWEN25_7B

from checkpoint.configs import CONFIG
from quantpipe.checkpoint.description import parse_description
from quantpipe.checkpoint.dims import read_dims
from quantpipe.checkpoint.modules import EXPERT_PARTS, FUSED, KINDS, governing_type, modules, specs


def test_modules_of_qwen3_235b() -> None:
    found = list(modules(read_dims(QWEN3_235B)))
    assert len({module.name for module in found}) == len(found)
    assert Counter(module.kind for module in found) == {
        "embed": 1,
        "head": 1,
        "norm": 1 + 4 * 94,
        "attention": 4 * 94,
        "router": 94,
        "expert": 3 * 128 * 94,
    }
    assert {module.kind for module in found} <= set(KINDS)


def test_parameters_of_qwen25_7b() -> None:
    found = list(modules(read_dims(QWEN25_7B)))
    weights = sum(module.out * (module.inp or 1) for module in found)
    assert weights + sum(module.out for module in found if module.bias) == 7_615_616_512
    assert Counter(module.kind for module in found)["norm"] == 1 + 2 * 28


def test_the_parts_of_a_fused_linear_share_its_name() -> None:
    found = list(modules(read_dims({**CONFIG, "mlp_only_layers": [1]})))
    for fused, parts in FUSED.items():
        groups = {module.group for module in found if module.group.endswith(fused)}
        assert groups
        for group in groups:
            assert tuple(module.leaf for module in found if module.group == group) == parts
    experts = [module.leaf for module in found if module.expert == 3 and module.layer == 0]
    assert tuple(experts) == EXPERT_PARTS


def test_a_tied_head_is_no_module() -> None:
    names = {module.name for module in modules(read_dims({**CONFIG, "tie_word_embeddings": True}))}
    assert "lm_head" not in names


def test_linears_with_a_bias_need_its_tensor() -> None:
    found = {module.name: module for module in modules(read_dims({**CONFIG, "model_type": "qwen2"}))}
    layer = "model.layers.0.self_attn"
    assert f"{layer}.q_norm" not in found
    for kind in ("FLOAT", "W8A8", "W8A8_DYNAMIC"):
        key = specs(found[f"{layer}.k_proj"], kind, "BF16", static_scales=False) or {}
        assert key["bias"].shape == (32,) and not key["bias"].optional
        assert "bias" not in (specs(found[f"{layer}.o_proj"], kind, "BF16", static_scales=False) or {})
    assert specs(found[f"{layer}.k_proj"], "unknown", "BF16", static_scales=False) is None


def test_the_first_expert_decides_for_all() -> None:
    description = parse_description({"model.layers.0.mlp.experts.0.up_proj.weight": "W8A8_DYNAMIC"})
    last = next(m for m in modules(read_dims(CONFIG)) if m.expert == 7 and m.leaf == "up_proj")
    assert governing_type(last, description) == "W8A8_DYNAMIC"
    norm = next(m for m in modules(read_dims(CONFIG)) if m.kind == "norm")
    assert governing_type(norm, description) == "FLOAT"


def test_scale_bias_of_row_parallel_linears_is_summed_in_parts() -> None:
    parts = {}
    for module in modules(read_dims(CONFIG)):
        found = specs(module, "W4A8_DYNAMIC", "BF16", static_scales=False) or {}
        if module.kind == "attention" and module.layer == 0:
            parts[module.leaf] = (found["scale_bias"].shape or ())[1]
    assert parts == {"q_proj": 1, "k_proj": 1, "v_proj": 1, "o_proj": 16}
