"""What a report says about a store: of 0.1.0, of today, damaged, rolled back, with its runs removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.golden import DIGEST, NAME, golden_recipe, golden_store
from helpers.reports import COSTS, SECOND, reported_store
from helpers.stores import RECIPE, published

from quantpipe.errors import UsageError
from quantpipe.publish import retention
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.model import Recipe
from quantpipe.report.document import GenerationReport
from quantpipe.report.gather import report_of
from quantpipe.report.write import keep_report
from quantpipe.store.damaged import mark
from quantpipe.store.manifest import Mismatch
from quantpipe.store.store import Store


@pytest.fixture
def reported(tmp_path: Path) -> tuple[Store, Recipe]:
    return reported_store(tmp_path)


def weights(report: GenerationReport) -> list[str]:
    return [remark.weight for remark in report.remarks]


def test_a_store_of_the_first_version_has_a_report_without_the_figures_of_later_ones(tmp_path: Path) -> None:
    store = golden_store(tmp_path)
    report = report_of(store, NAME, DIGEST, load_recipe(golden_recipe(tmp_path)))
    assert (report.state, report.quality, report.changes) == ("current", None, None)
    assert [stage.stage for stage in report.stages] == ["fetch", "quantize", "verify", "smoke", "publish"]
    assert {stage.memory_bytes for stage in report.stages} == {0}
    assert report.sizes.types == {"W8A8": 12, "W8A8_DYNAMIC": 72}
    assert (report.smoke.matched, report.smoke.known) == (18, 18)
    assert report.run is not None and report.run.host == "vm"
    assert any("was not measured" in remark.text for remark in report.remarks)


def test_without_the_recipe_the_serve_profile_is_not_known(tmp_path: Path) -> None:
    store = golden_store(tmp_path)
    report = report_of(store, NAME, DIGEST)
    assert (report.serve, report.settings) == (None, {})


def test_a_recipe_that_has_changed_since_is_not_that_of_the_generation(tmp_path: Path) -> None:
    store, path = golden_store(tmp_path), golden_recipe(tmp_path)
    path.write_text(path.read_text().replace("rotate: true", "rotate: false"))
    assert report_of(store, NAME, DIGEST, load_recipe(path)).settings == {}


def test_what_changed_since_the_generation_before(reported: tuple[Store, Recipe]) -> None:
    store, recipe = reported
    report = report_of(store, NAME, SECOND, recipe)
    assert report.changes is not None and report.changes.digest == DIGEST
    found = {(change.topic, change.key): (change.before, change.after) for change in report.changes.items}
    assert found["version", "msmodelslim"] == ("26.1.0", "26.2.0")
    assert found["size", "bytes"] == (1_381_218, 1_381_000)
    assert found["quality", "kl_mean"] == (0.0121, 0.0187)
    assert not any(topic == "recipe" for topic, _ in found)
    assert report.back.digest == DIGEST
    assert report.back.command.startswith(f"quantpipe rollback {NAME} --store ")


def test_a_changed_key_of_the_recipe_is_named(reported: tuple[Store, Recipe], tmp_path: Path) -> None:
    store, recipe = reported
    smoke = recipe.smoke.model_copy(update={"min_matches": 0.5})
    report = report_of(store, NAME, SECOND, recipe.model_copy(update={"smoke": smoke}))
    assert report.changes is not None
    keys = {c.key: (c.before, c.after) for c in report.changes.items if c.topic == "recipe"}
    assert keys == {"smoke.min_matches": (1.0, 0.5)}


def test_gates_are_those_of_the_recipe(reported: tuple[Store, Recipe]) -> None:
    store, recipe = reported
    gates = recipe.quality.model_copy(update={"max_kl": 0.01, "min_layer_sqnr": None})
    report = report_of(store, NAME, SECOND, recipe.model_copy(update={"quality": gates}))
    assert [(gate.key, gate.passed) for gate in report.gates] == [
        ("max_kl", False),
        ("min_top1", True),
        ("max_perplexity_ratio", True),
    ]
    assert report.remarks[0].weight == "problem" and "max_kl fails: 0.0187" in report.remarks[0].text


def test_costs_are_compared_with_the_plan(reported: tuple[Store, Recipe]) -> None:
    store, recipe = reported
    costs = {stage.stage: stage for stage in report_of(store, NAME, SECOND, recipe).stages}
    assert costs["quantize"].memory_bytes == COSTS["quantize"].memory_bytes
    assert costs["quantize"].planned_seconds == 5400.0


def test_experts_that_calibration_did_not_reach(reported: tuple[Store, Recipe]) -> None:
    store, recipe = reported
    experts = report_of(store, NAME, SECOND, recipe).experts
    assert [(e.layer, e.experts, e.unreached) for e in experts] == [
        (0, 8, 1),
        (1, 8, 0),
        (2, 8, 1),
        (3, 8, 0),
    ]
    assert (experts[1].fewest, experts[1].median) == (1, 351)


def test_damage_and_a_rollback_come_first(reported: tuple[Store, Recipe]) -> None:
    store, recipe = reported
    mark(store.generation(NAME, SECOND), [Mismatch("model-00001-of-00005.safetensors", "is missing")])
    damaged = report_of(store, NAME, SECOND, recipe)
    assert (damaged.state, weights(damaged)[0]) == ("damaged", "problem")
    assert "model-00001-of-00005.safetensors is missing" in damaged.remarks[0].text
    retention.rollback(store, NAME, check=lambda path: [])
    held = report_of(store, NAME, SECOND, recipe)
    assert weights(held)[:2] == ["problem", "problem"] and "rolled back" in held.remarks[1].text
    assert report_of(store, NAME, DIGEST, recipe).state == "current"


def test_what_the_run_said_outlives_the_run(reported: tuple[Store, Recipe]) -> None:
    store, recipe = reported
    run = store.runs(NAME)[-1]
    with run.events.open("a") as file:
        file.write(json.dumps({"event": "warning", "text": "the disk is slow"}) + "\n{half\n")
    first = report_of(store, NAME, SECOND, recipe)
    assert first.run is not None and first.run.warnings == ("the disk is slow",)
    keep_report(store, first)
    shutil.rmtree(run.path)
    again = report_of(store, NAME, SECOND, None)
    assert (again.run, again.experts, again.settings) == (first.run, first.experts, first.settings)


def test_a_report_is_read_as_it_was_written(reported: tuple[Store, Recipe]) -> None:
    store, recipe = reported
    report = report_of(store, NAME, SECOND, recipe)
    assert GenerationReport.from_json(json.loads(json.dumps(report.to_json())), where="") == report


def test_a_generation_without_its_receipts_has_no_report(tmp_path: Path) -> None:
    store = Store(tmp_path)
    digest = published(store, "a")
    with pytest.raises(UsageError, match="no receipts of quantize, verify, smoke"):
        report_of(store, RECIPE, digest)


def test_secrets_stay_out(reported: tuple[Store, Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    store, recipe = reported
    monkeypatch.setenv("HF_TOKEN", "hf_averysecrettoken")
    serve = recipe.smoke.serve.model_copy(
        update={
            "environment": {"VLLM_API_KEY": "sesame", "OMP_NUM_THREADS": "4"},
            "extra_args": ("--note=hf_averysecrettoken", "--swap-space", "3"),
        }
    )
    smoke = recipe.smoke.model_copy(update={"serve": serve})
    report = report_of(store, NAME, SECOND, recipe.model_copy(update={"smoke": smoke}))
    text = json.dumps(report.to_json())
    assert "sesame" not in text and "averysecret" not in text
    assert report.serve is not None and report.serve.environment["OMP_NUM_THREADS"] == "4"
    assert report.serve.arguments[-2:] == ("--swap-space", "3")


def test_a_profile_that_is_not_allowed_any_more_is_not_shown(reported: tuple[Store, Recipe]) -> None:
    store, recipe = reported
    serve = recipe.smoke.serve.model_copy(update={"extra_args": ("--api-key", "sesame")})
    smoke = recipe.smoke.model_copy(update={"serve": serve})
    report = report_of(store, NAME, SECOND, recipe.model_copy(update={"smoke": smoke}))
    assert report.serve is None and "sesame" not in json.dumps(report.to_json())
