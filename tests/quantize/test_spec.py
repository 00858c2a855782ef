from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from quantpipe.errors import PreflightError, VerificationError
from quantpipe.quantize.spec import ADAPTERS, adapter_for, build_spec
from quantpipe.recipe.files import Prompts
from quantpipe.recipe.quantize import AntiOutlier, Calibration, Quantize

NONE = Prompts(Path("none.json"), ())
DATASET = Path("/run/calibration.json")


def quantize(**changes: Any) -> Quantize:
    values: dict[str, Any] = {
        "calibration": Calibration(dataset=NONE),
        "anti_outlier": AntiOutlier(dataset=NONE),
        **changes,
    }
    return Quantize(**values)


def types(spec: dict[str, Any]) -> list[str]:
    return [step["type"] for step in spec["process"]]


def test_rotate_then_smooth_then_quantize() -> None:
    spec = build_spec(quantize(), DATASET)
    assert types(spec) == ["quarot", "flex_smooth_quant", "group"]
    assert spec["process"][1]["enable_subgraph_type"] == ["norm-linear"]
    assert spec["dataset"] == str(DATASET)
    assert spec["save"] == [{"type": "ascendv1_saver", "part_file_size": 4}]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"rotate": False}, ["flex_smooth_quant", "group"]),
        ({"anti_outlier": None}, ["quarot", "group"]),
        ({"anti_outlier": AntiOutlier(method="none", dataset=NONE)}, ["quarot", "group"]),
        (
            {"anti_outlier": AntiOutlier(method="iter_smooth", dataset=NONE)},
            ["quarot", "iter_smooth", "group"],
        ),
        ({"rotate": False, "anti_outlier": None}, ["group"]),
    ],
)
def test_what_the_recipe_leaves_out_is_left_out(changes: dict[str, Any], steps: list[str]) -> None:
    assert types(build_spec(quantize(**changes), DATASET)) == steps


def test_the_part_size_is_the_recipe_s() -> None:
    assert build_spec(quantize(part_size=7), DATASET)["save"][0]["part_file_size"] == 7


def scheme_of(module: str) -> str:
    """The scheme that the spec's groups give to a linear module; FLOAT where none takes it."""
    names = {"per_tensor": "W8A8", "per_token": "W8A8_DYNAMIC"}
    found = []
    for group in build_spec(quantize(), DATASET)["process"][-1]["configs"]:
        included = any(fnmatch(module, pattern) for pattern in group["include"])
        excluded = any(fnmatch(module, pattern) for pattern in group["exclude"])
        if included and not excluded:
            qconfig = group["qconfig"]
            assert qconfig["weight"] == {
                "scope": "per_channel",
                "dtype": "int8",
                "symmetric": True,
                "method": "minmax",
            }
            # A static scale takes a zero point along, one per token does not.
            assert qconfig["act"]["symmetric"] is (qconfig["act"]["scope"] == "per_token")
            found.append(names[qconfig["act"]["scope"]])
    assert len(found) <= 1
    return found[0] if found else "FLOAT"


@pytest.mark.parametrize(
    ("module", "scheme"),
    [
        *[(f"model.layers.0.self_attn.{name}_proj", "W8A8") for name in "qkvo"],
        *[(f"model.layers.9.mlp.experts.127.{name}_proj", "W8A8_DYNAMIC") for name in ("gate", "up", "down")],
        *[(f"model.layers.63.mlp.{name}_proj", "W8A8_DYNAMIC") for name in ("gate", "up", "down")],
        ("model.layers.0.mlp.gate", "FLOAT"),
        ("model.embed_tokens", "FLOAT"),
        ("lm_head", "FLOAT"),
    ],
)
def test_the_scheme_of_each_module_of_qwen3(module: str, scheme: str) -> None:
    assert scheme_of(module) == scheme


def config(folder: Path, text: str) -> Path:
    (folder / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize(("architecture", "adapter"), ADAPTERS.items())
def test_the_adapter_of_each_supported_family(tmp_path: Path, architecture: str, adapter: str) -> None:
    assert (
        adapter_for(config(tmp_path, json.dumps({"architectures": ["Other", architecture]})), quantize())
        == adapter
    )


def test_an_unsupported_architecture_names_the_supported_ones(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="LlamaForCausalLM") as caught:
        adapter_for(config(tmp_path, '{"architectures": ["LlamaForCausalLM"]}'), quantize())
    assert "Qwen3MoeForCausalLM" in (caught.value.hint or "")


@pytest.mark.parametrize("changes", [{"anti_outlier": None}, {"rotate": False}])
def test_engine_stock_refuses_what_it_cannot_do_to_qwen2(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = config(tmp_path, '{"architectures": ["Qwen2ForCausalLM"]}')
    with pytest.raises(PreflightError, match="neither rotates nor smooths"):
        adapter_for(folder, quantize(engine="stock", **changes))
    assert adapter_for(folder, quantize(engine="stock", rotate=False, anti_outlier=None))
    assert adapter_for(folder, quantize(**changes))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"architectures": null}', '{"architectures": "Qwen3ForCausalLM"}'),
        '{"architectures": [["Qwen3ForCausalLM"]]}',
    ],
)
def test_a_config_that_says_nothing_of_use(tmp_path: Path, text: str) -> None:
    with pytest.raises(VerificationError, match="architecture") as caught:
        adapter_for(config(tmp_path, text), quantize())
    assert caught.value.where == str(tmp_path / "config.json")


def test_no_config_at_all(tmp_path: Path) -> None:
    with pytest.raises(VerificationError) as caught:
        adapter_for(tmp_path, quantize())
    assert "source.repo" in (caught.value.hint or "")
