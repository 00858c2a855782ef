"""quality.json of a run: it names defects, survives a kill, and changes no bit of the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from quantpipe.quantize.worker.streaming.quality.report import report
from quantpipe.quantize.worker.streaming.saver import UnitSaver
from quantpipe.store.quality import LARGEST

from ...engines import HELD_OUT, MOE, OTHER, Quantizer, files, quality, tensors

FOUR = {**MOE, "num_hidden_layers": 4, "hidden_size": 32}


def test_a_layer_whose_scale_is_off_by_two_is_named(
    quantizer: Quantizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = quantizer.make(tmp_path / "model", **FOUR)
    assert quantizer.run(snapshot, tmp_path / "good")["status"] == 0
    damaged = "model.layers.2.self_attn.v_proj"
    unit = UnitSaver.unit

    def doubled(saver: UnitSaver) -> Any:
        values, entries = unit(saver)
        if f"{damaged}.deq_scale" in values:
            values[f"{damaged}.deq_scale"].mul_(2)
        return values, entries

    monkeypatch.setattr(UnitSaver, "unit", doubled)
    assert quantizer.run(snapshot, tmp_path / "bad")["status"] == 0
    good, bad = (quality(tmp_path / name).summary for name in ("good", "bad"))
    lost = [a.sqnr - b.sqnr for a, b in zip(good.layers, bad.layers, strict=True)]
    assert lost[2] > 6
    assert all(abs(each) < 0.5 for index, each in enumerate(lost) if index != 2)
    assert bad.layers[2].path_sqnr < good.layers[2].path_sqnr - 6
    assert bad.worst_linears[0].name == damaged
    assert bad.worst_linears[0].sqnr == pytest.approx(0.0, abs=0.5)  # the error is as large as the output
    assert bad.worst_linears[0].weight_error == pytest.approx(1.0, abs=0.05)
    assert bad.kl_mean > 2 * good.kl_mean


def test_experts_that_calibration_does_not_reach_are_named(quantizer: Quantizer, tmp_path: Path) -> None:
    """One of 16 is never chosen: all it gets are logits of zero."""
    snapshot = quantizer.make(tmp_path / "model", **{**MOE, "num_experts": 16, "num_experts_per_tok": 1})
    [file] = snapshot.glob("*.safetensors")
    weights = load_file(file)
    for layer in range(2):
        weights[f"model.layers.{layer}.mlp.gate.weight"][5] = 0
    save_file(weights, file, {"format": "pt"})
    assert quantizer.run(snapshot, tmp_path / "out")["status"] == 0
    found = quality(tmp_path / "out")
    assert {f"model.layers.{layer}.mlp.experts.5" for layer in range(2)} <= {*found.summary.unreached_experts}
    of_it = [linear for linear in found.linears if ".experts.5." in linear.name]
    assert {(linear.calibration_tokens, linear.tokens, linear.sqnr) for linear in of_it} == {(0, 0, None)}
    assert all(0 < linear.weight_error < 0.02 for linear in found.linears)
    for layer in range(2):
        gates = [each for each in found.linears if f".{layer}.mlp.experts." in each.name]
        gates = [each for each in gates if each.name.endswith("gate_proj")]
        attention = next(each for each in found.linears if each.name.endswith(f".{layer}.self_attn.q_proj"))
        assert sum(each.calibration_tokens for each in gates) == attention.calibration_tokens
        assert sum(each.tokens for each in gates) == attention.tokens


@pytest.mark.parametrize("exact", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_killed_run_ends_with_the_same_figures(quantizer: Quantizer, tmp_path: Path, exact: bool) -> None:
    snapshot = quantizer.make(tmp_path / "model", **FOUR)
    assert quantizer.run(snapshot, tmp_path / "whole", exact=exact)["status"] == 0
    for index in (2, 4):
        event = f'"layer", "index": {index}'
        done = quantizer.run(snapshot, tmp_path / "out", exact=exact, signal="SIGKILL", after_event=event)
        assert done["status"] in (-9, 0)
    done = quantizer.run(snapshot, tmp_path / "out", exact=exact)
    assert next(event["units"] for event in done["events"] if event["event"] == "resumed") >= 2
    assert quality(tmp_path / "out") == quality(tmp_path / "whole")


def test_measuring_changes_no_bit(quantizer: Quantizer, tmp_path: Path) -> None:
    snapshot = quantizer.make(tmp_path / "model", **MOE)
    for name, held_out in (("with", HELD_OUT), ("without", None)):
        assert quantizer.run(snapshot, tmp_path / name, held_out=held_out)["status"] == 0
    assert files(tmp_path / "with" / "checkpoint") == files(tmp_path / "without" / "checkpoint")
    assert not (tmp_path / "without" / "state" / "quality.json").exists()
    text = (tmp_path / "with" / "state" / "quality.json").read_text()
    value = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert len(value["prompts"]) == len(HELD_OUT)
    for prompt in value["prompts"]:
        assert len(prompt["tokens"]) - 1 == len(prompt["kl"]) == len(prompt["bf16"])
        assert max(prompt["bf16"]) <= 0


@pytest.mark.parametrize("before", [None, pytest.param(OTHER, marks=pytest.mark.slow)])
def test_work_that_was_begun_otherwise_goes_on_unmeasured(
    quantizer: Quantizer, tmp_path: Path, before: list[str] | None
) -> None:
    """No work is lost for a change of what decides no bit."""
    snapshot = quantizer.make(tmp_path / "model", **FOUR)
    event = '"layer", "index": 3'
    out = tmp_path / "out"
    stopped = quantizer.run(snapshot, out, held_out=before, signal="SIGTERM", after_event=event)
    assert stopped["status"] == 75
    done = quantizer.run(snapshot, out)
    assert {event["event"] for event in done["events"]} >= {"resumed", "unmeasured"}
    assert not (out / "state" / "quality.json").exists()
    assert quantizer.run(snapshot, tmp_path / "whole")["status"] == 0
    assert tensors(out / "checkpoint") == tensors(tmp_path / "whole" / "checkpoint")


def test_what_is_not_a_number_is_as_bad_as_can_be() -> None:
    prompts = [
        {"tokens": (1, 2, 3), "bf16": (-1.0, -1.0), "quantized": (-1.0, -LARGEST), "kl": (0.0, LARGEST)}
    ]
    found = report([{"dataset": "d"}, {"dataset": "d", "prompts": prompts, "top1": 0.5}]).summary
    assert (found.kl_mean, found.kl_p99, found.perplexity_quantized) == (LARGEST / 2, LARGEST, LARGEST)
    assert found.perplexity_bf16 == pytest.approx(2.71828)


def test_the_99th_percentile_is_one_of_the_values() -> None:
    kl = tuple(value / 100 for value in range(1, 201))
    ids = tuple(range(201))
    prompts = [{"tokens": ids, "bf16": (-1.0,) * 200, "quantized": (-1.0,) * 200, "kl": kl}]
    found = report([{"dataset": "d", "prompts": prompts, "top1": 1.0}]).summary
    assert found.kl_p99 == 1.98
    assert found.kl_mean == pytest.approx(1.005)
