"""Defects that only a comparison with the BF16 source can find."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantpipe.errors import VerificationError
from quantpipe.verify.verify import verify_checkpoint
from verify import edit
from verify.edit import change, stored, tensors

pytestmark = pytest.mark.quantize_env
CopyOf = Callable[[str], Path]
ALL = ("v1-moe", "v1-moe-smooth", "v1-dense", "v0-moe")
VALID = (*ALL, "v1-qwen2")
MOE = ("v1-moe", "v1-moe-smooth", "v0-moe")
EXPERTS = "model.layers.1.mlp.experts"


def source_of(made: Path, kind: str) -> Path:
    return made / ("bf16-" + {"v1-dense": "dense", "v1-qwen2": "qwen2"}.get(kind, "moe"))


def mlp(kind: str) -> str:
    return "model.layers.1.mlp" if "dense" in kind else f"{EXPERTS}.2"


@pytest.mark.parametrize("kind", VALID)
def test_valid_weights_are_near_their_source(made: Path, copy_of: CopyOf, kind: str) -> None:
    report = verify_checkpoint(copy_of(kind), deep=True, against=source_of(made, kind))
    assert report.ok
    assert {"B11", "B13"} <= set(report.passed)
    fidelity = report.figures["fidelity"]
    assert fidelity["rotation"] == ("estimated" if kind == "v0-moe" else "described")
    assert all(0 <= error["max"] < 0.03 for error in fidelity["by_kind"].values())
    assert fidelity["by_kind"]["down_proj"]["mean"] > 0.002  # int8 is not exact: something was compared
    assert set(fidelity["by_layer"]) == {"0", "1"}
    assert fidelity["left_out"] == 0


def swap_experts(path: Path, kind: str) -> None:
    with tensors(path) as content:
        for name in [name for name in content if name.startswith(f"{EXPERTS}.0.")]:
            other = name.replace("experts.0.", "experts.3.")
            content[name], content[other] = content[other], content[name]


def scale_one_expert(path: Path, kind: str) -> None:
    change(path, f"{mlp(kind)}.down_proj.weight_scale", lambda a: a * 4)


def scale_one_row(path: Path, kind: str) -> None:
    def wrong(array: np.ndarray) -> np.ndarray:
        array[5] *= 2.5
        return array

    change(path, f"{mlp(kind)}.gate_proj.weight_scale", wrong)


def layer_of_another_run(path: Path, kind: str) -> None:
    with tensors(path) as content:
        for name in [name for name in content if name.startswith("model.layers.0.self_attn.")]:
            content[name.replace("layers.0.", "layers.1.")] = content[name]


def deq_scale_times_four(path: Path, kind: str) -> None:
    name = "model.layers.0.self_attn.q_proj"
    change(path, f"{name}.deq_scale", lambda a: a * 4)
    if kind == "v0-moe":  # keep the identities true, so that only the source shows it
        change(path, f"{name}.weight_scale", lambda a: a * 4)
        with tensors(path) as content:
            bias = content[f"{name}.bias"].array
            content[f"{name}.bias"] = stored(bias * 4, "BF16")


def router_rows_reversed(path: Path, kind: str) -> None:
    name = "model.layers.0.self_attn.k_norm" if "dense" in kind else "model.layers.0.mlp.gate"
    change(path, f"{name}.weight", lambda a: a[::-1].copy())


def down_of_another_layer(path: Path, kind: str) -> None:
    with tensors(path) as content:
        name = f"{mlp(kind)}.down_proj"
        for suffix in ("weight", "weight_scale"):
            content[f"{name}.{suffix}"] = content[f"{name}.{suffix}".replace("layers.1.", "layers.0.")]


def output_heads_swapped(path: Path, kind: str) -> None:
    def swap(array: np.ndarray) -> np.ndarray:
        return np.concatenate([array[:, 64:], array[:, :64]], axis=1)

    change(path, "model.layers.1.self_attn.o_proj.weight", swap)


def another_bias(path: Path, part: str) -> None:
    """A bias that is not the source's, folded into quant_bias as the format wants it."""
    name = f"model.layers.1.self_attn.{part}_proj"
    with tensors(path) as content:
        bias, deq = content[f"{name}.bias"].array[::-1].copy(), content[f"{name}.deq_scale"].array
        sums = content[f"{name}.weight"].array.astype(np.int64).sum(1)
        offset = float(content[f"{name}.input_offset"].array[0])
        content[f"{name}.bias"] = stored(bias, "F32")
        content[f"{name}.quant_bias"] = stored(np.round(bias / deq - sums * offset), "I32")


@pytest.mark.parametrize("part", ["q", "v"])
def test_a_bias_of_another_model(made: Path, copy_of: CopyOf, part: str) -> None:
    path = copy_of("v1-qwen2")
    another_bias(path, part)
    assert verify_checkpoint(path, deep=True).ok
    report = verify_checkpoint(path, deep=True, against=made / "bf16-qwen2")
    where = (f"model.layers.1.self_attn.{part}_proj.bias",)
    assert [(f.id, f.text, f.where) for f in report.errors] == [
        ("B13", "a bias differs from the source", where)
    ], report.lines()


SWAPS = [
    pytest.param(plant, kind, id=f"{plant.__name__}-{kind}")
    for plant, kinds in [
        (swap_experts, MOE),
        (scale_one_expert, ALL),
        (scale_one_row, ALL),
        (layer_of_another_run, ALL),
        (deq_scale_times_four, ALL),
        (router_rows_reversed, ALL),
        (down_of_another_layer, ALL),
        (output_heads_swapped, ALL),
    ]
    for kind in kinds
]


@pytest.mark.parametrize(("plant", "kind"), SWAPS)
def test_only_the_source_can_tell(
    made: Path, copy_of: CopyOf, plant: Callable[[Path, str], None], kind: str
) -> None:
    path = copy_of(kind)
    plant(path, kind)
    assert verify_checkpoint(path, deep=True).ok
    report = verify_checkpoint(path, deep=True, against=source_of(made, kind))
    assert [f.id for f in report.errors] == ["B13"], "\n".join(report.lines())


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_rotated_twice_is_a_matter_of_the_rotation(made: Path, copy_of: CopyOf, name: str) -> None:
    path = copy_of("v1-moe")
    matrix = edit.read(path / "optional/quarot.safetensors")["global_rotation"].array
    change(path, name, lambda a: (a @ matrix).astype(np.float32))
    report = verify_checkpoint(path, deep=True, against=made / "bf16-moe")
    assert [(f.id, f.where) for f in report.errors] == [("B11", (name,))]


def test_another_rotation_than_the_described_one(made: Path, copy_of: CopyOf) -> None:
    path = copy_of("v1-moe")
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0]
    edit.write(path / "optional/quarot.safetensors", {"global_rotation": stored(rotation, "F32")})
    assert verify_checkpoint(path, deep=True).ok
    report = verify_checkpoint(path, deep=True, against=made / "bf16-moe")
    assert {f.id for f in report.errors} == {"B11", "B13"}


def test_source_of_another_model(made: Path, copy_of: CopyOf) -> None:
    report = verify_checkpoint(copy_of("v1-dense"), against=made / "bf16-moe")
    assert [f.id for f in report.errors if "no tensor of this name" in f.text] == ["B13"]


@pytest.mark.parametrize("kind", ["v1-moe", "empty"])
def test_source_has_to_be_a_bf16_model(made: Path, copy_of: CopyOf, tmp_path: Path, kind: str) -> None:
    source = tmp_path / "empty"
    source.mkdir()
    with pytest.raises(VerificationError, match="not a BF16 model"):
        verify_checkpoint(copy_of("v1-moe"), against=source if kind == "empty" else made / kind)
