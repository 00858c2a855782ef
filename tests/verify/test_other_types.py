"""Other types and dtypes than W8A8-rot's, and the versions that serve them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantpipe.verify.report import Report
from quantpipe.verify.verify import verify_checkpoint
from verify.defects import DEFECTS
from verify.edit import config, description, stored, tensors

CopyOf = Callable[[str], Path]


def findings(report: Report) -> list[tuple[str, str]]:
    return [(f.id, f.severity.value) for f in report.findings]


def to_fp16(path: Path) -> None:
    with config(path) as value, tensors(path) as content:
        value["dtype"] = "float16"
        for name, tensor in content.items():
            if tensor.dtype == "BF16":
                content[name] = stored(tensor.array, "F16")
            elif name.endswith("deq_scale"):
                content[name] = stored(tensor.array.view(np.uint32).astype(np.int64), "I64")


def to_mix(path: Path) -> None:
    with description(path) as keys, tensors(path) as content:
        for name in [name for name in content if name.endswith("deq_scale")]:
            module = name.removesuffix(".deq_scale")
            scale = content[name].array / content[f"{module}.input_scale"].array
            content[f"{module}.weight_scale"] = stored(scale.reshape(-1, 1), "F32")
            content[f"{module}.weight_offset"] = stored(np.zeros((scale.size, 1)), "F32")
            for suffix in ("weight_scale", "weight_offset"):
                keys[f"{module}.{suffix}"] = "W8A8_MIX"
            for key in keys:
                if key.startswith(f"{module}."):
                    keys[key] = "W8A8_MIX"


def to_w4a8(path: Path) -> None:
    """Experts with two 4-bit weights a byte, as msmodelslim 26.1.0 packs them, with a scale_bias."""
    with description(path) as keys, tensors(path) as content:
        for name in [name for name in content if ".experts." in name and name.endswith(".weight")]:
            module, old = name.removesuffix(".weight"), content[name].array
            content[name] = stored(old[::2], "I8")
            parts = 16 if module.endswith("down_proj") else 1
            content[f"{module}.scale_bias"] = stored(np.ones((old.shape[0], parts)), "F32")
            keys[f"{module}.scale_bias"] = "W4A8_DYNAMIC"
            for key in keys:
                if key.startswith(f"{module}."):
                    keys[key] = "W4A8_DYNAMIC"


@pytest.mark.quantize_env
@pytest.mark.parametrize("change", [to_fp16, to_mix, to_w4a8], ids=lambda change: change.__name__)
def test_valid_checkpoints_of_other_types(copy_of: CopyOf, change: Callable[[Path], None]) -> None:
    path = copy_of("v1-moe")
    change(path)
    report = verify_checkpoint(path, deep=True)
    assert findings(report) == [], "\n".join(report.lines())


@pytest.mark.quantize_env
@pytest.mark.parametrize("change", [to_fp16, to_mix])
def test_their_values_are_read_rightly(made: Path, copy_of: CopyOf, change: Callable[[Path], None]) -> None:
    path = copy_of("v1-moe")
    change(path)
    assert verify_checkpoint(path, against=made / "bf16-moe").ok


@pytest.mark.quantize_env
def test_types_that_a_newer_version_dropped(copy_of: CopyOf) -> None:
    path = copy_of("v1-moe")
    to_mix(path)
    assert findings(verify_checkpoint(path, target="0.26.0")) == []
    assert findings(verify_checkpoint(path, target="main")) == [("A5", "error")]


@pytest.mark.quantize_env
def test_float_experts_beside_static_attention(copy_of: CopyOf) -> None:
    """Experts that stay BF16 in all layers are legal."""
    path = copy_of("v1-moe")
    with description(path) as keys, tensors(path) as content:
        for name in [name for name in content if ".experts." in name]:
            if name.endswith(".weight"):
                content[name] = stored(content[name].array.astype(np.float32), "BF16")
                keys[name] = "FLOAT"
            else:
                del content[name], keys[name]
    assert findings(verify_checkpoint(path, deep=True)) == []


COMBINATIONS = [
    ("k_float_beside_quantized_q", "expert_missing_in_all_layers", "lm_head_all_zero"),
    ("config_with_more_experts", "deq_scale_missing", "nan_in_a_scale"),
    ("stale_bf16_index", "half_written_shard_left", "key_of_router_missing"),
    ("quantization_config_in_config", "tokenizer_missing", "expert_with_deq_scale", "quant_bias_zeroed"),
    ("keys_of_a_later_expert_missing", "bf16_under_a_static_key", "rotation_not_orthogonal"),
    ("bytes_after_the_last_tensor", "weight_of_wrong_shape", "zero_in_an_expert_scale"),
]


@pytest.mark.quantize_env
@pytest.mark.parametrize("names", COMBINATIONS, ids=lambda names: "+".join(names))
def test_combinations(copy_of: CopyOf, names: tuple[str, ...]) -> None:
    path = copy_of("v1-moe")
    planted = [defect for name in names for defect in DEFECTS if defect.name == name]
    assert len(planted) == len(names)
    for defect in reversed(
        planted
    ):  # those that leave the file unreadable for the editor come first in the list
        defect.plant(path)
    report = verify_checkpoint(path, deep=True)
    assert set(findings(report)) == {(defect.check, defect.level) for defect in planted}


@pytest.mark.quantize_env
def test_the_stock_tool_on_tied_embeddings(made: Path, copy_of: CopyOf) -> None:
    """msmodelslim rotates a tied matrix twice and leaves tie_word_embeddings true: its output, as it is."""
    path = copy_of("v1-tied")
    assert findings(verify_checkpoint(path, deep=True)) == [("B11", "error")]
    report = verify_checkpoint(path, against=made / "bf16-tied")
    names = {place for f in report.errors if f.id == "B11" for place in f.where}
    assert names == {"config.json", "model.embed_tokens.weight"}
