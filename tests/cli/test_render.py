from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.receipts import SMOKE_FIGURES, publish_receipt, quantize_receipt

from quantpipe.cli import render
from quantpipe.errors import PreflightError, QuantizeError, RecipeError, VerificationError
from quantpipe.pipeline import RunResult
from quantpipe.publish.prune import Candidate
from quantpipe.recipe.load import load_recipe
from quantpipe.settings import Settings
from quantpipe.stage import Receipts, RunDirectory, StagePlan
from quantpipe.store.store import Store

RECIPES = Path(__file__).parents[2] / "recipes"


def test_an_error_says_what_where_and_what_next_in_this_order() -> None:
    failure = RecipeError("a key is wrong", where="r.yaml", hint="correct it", details=["r.yaml:3: x"])
    assert render.error(failure) == [
        "error: a key is wrong",
        "  where: r.yaml",
        "    r.yaml:3: x",
        "  next: correct it",
    ]
    assert render.error(RecipeError("alone")) == ["error: alone"]


@pytest.mark.parametrize(
    ("kind", "first", "last"),
    [(RecipeError, "0", "19"), (VerificationError, "0", "19"), (QuantizeError, "80", "99")],
)
def test_a_failure_fits_on_a_screen(kind: Any, first: str, last: str) -> None:
    """Of problems the first are shown, of a log the last."""
    lines = render.error(kind("many", where="x", hint="y", details=[str(n) for n in range(100)]))
    assert len(lines) <= 24
    assert lines[2].strip() == first
    assert lines[21].strip() == last
    assert "80 more" in lines[22]


def test_endless_lines_are_cut() -> None:
    failure = QuantizeError("x\ny " * 5000, hint="h" * 5000, details=["d" * 5000])
    lines = render.error(failure)
    assert len(lines) == 3
    assert max(map(len, lines)) < 700
    assert sum(map(len, lines)) < 1600
    assert lines[0].startswith("error: x y x")


@pytest.fixture
def outcome(tmp_path: Path) -> RunResult:
    quantized = quantize_receipt(bytes=220 << 30, source_bytes=440 << 30)
    receipts = Receipts.of(quantized, publish_receipt("ab" * 32))
    return RunResult("published", receipts, RunDirectory(tmp_path / "20260101-x"))


def test_the_end_of_a_run(outcome: RunResult, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "qwen3-235b-w8a8-rot.yaml")
    settings = Settings(store=tmp_path / "store", serve_python=tmp_path / "python")
    value, lines = render.outcome(recipe, settings, outcome)
    pointer = tmp_path / "store" / "models" / recipe.name / "current"
    generation = pointer.with_name("ab" * 32)
    assert lines[0] == "qwen3-235b-w8a8-rot: published"
    assert lines[1] == f"  {pointer} -> abababababab (220.0 GiB, 50 % of 440.0 GiB in BF16)"
    # A load that followed the pointer would mix two generations if a publish came in between.
    assert f"  vllm serve {generation} \\" in lines
    assert value["digest"] == "ab" * 32
    assert value["path"] == str(generation)
    assert value["serve"]["arguments"][:3] == ["vllm", "serve", str(generation)]
    assert value["run"] == "20260101-x"


def test_up_to_date_is_short(outcome: RunResult, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "qwen3-235b-w8a8-rot.yaml")
    value, lines = render.outcome(
        recipe, Settings(store=tmp_path), RunResult("up to date", outcome.receipts, None)
    )
    assert len(lines) == 2
    assert value["run"] is None


def test_a_run_that_stopped_early(outcome: RunResult, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "qwen3-235b-w8a8-rot.yaml")
    receipts = Receipts.of(outcome.receipts.quantize)
    value, lines = render.outcome(recipe, Settings(), RunResult("stopped", receipts, outcome.run))
    assert lines == ["qwen3-235b-w8a8-rot: stopped after quantize"]
    assert "digest" not in value


def test_plans_sum_disk_and_take_the_peak_of_memory() -> None:
    stages = [
        StagePlan("fetch", "reuse", "never shown", 0, 0, notes=("not this",)),
        StagePlan("quantize", "run", "w8a8", 1 << 30, 5 << 30, notes=("mind this",)),
        StagePlan("smoke", "run", "native", 1 << 20, 2 << 30),
    ]
    value, lines = render.plans(stages, [PreflightError("no NPU", hint="use another host")])
    text = "\n".join(lines)
    assert "up to date" in lines[0] and "never shown" not in text and "not this" not in text
    assert "note: mind this" in text
    assert "adds 1.0 GiB to the store, needs 5.0 GiB of memory" in text
    assert lines[-2:] == ["error: no NPU", "  next: use another host"]
    assert value["disk_bytes"] == (1 << 30) + (1 << 20)
    assert value["memory_bytes"] == 5 << 30
    assert value["obstacles"][0]["exit_code"] == 5


def test_prune_says_whether_it_did_or_would() -> None:
    candidate = Candidate("generation", "tiny", "models/tiny/abc", 3 << 30)
    value, lines = render.pruned([candidate], removed=False)
    assert "would be removed" in lines[-1] and "3.0 GiB" in lines[-1]
    assert value["bytes"] == 3 << 30
    assert render.pruned([candidate], removed=True)[1][-1].endswith("  removed")
    assert render.pruned([], removed=True)[1] == ["nothing to remove"]


def test_probes_with_their_marks() -> None:
    def probe(matches: bool | None) -> dict[str, Any]:
        return {"matches": matches, "seconds": 0.5, "prompt": "One", "text": " two "}

    _, lines = render.smoke(
        replace(SMOKE_FIGURES, ready_seconds=12.34, probes=(probe(True), probe(False), probe(None)))
    )
    assert lines[0] == "ready after 12.3 s"
    assert [line.split("  ")[1].strip() for line in lines[1:]] == ["match", "mismatch", "answered"]
    assert lines[1].endswith("'One' -> 'two'")


def test_recipes_are_listed_with_what_they_are() -> None:
    paths = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    value, lines = render.recipes(paths)
    assert {entry["name"]: entry["path"] for entry in value} == {
        name: str(path) for name, path in paths.items()
    }
    assert all(entry["about"] for entry in value)
    assert lines[::3] == list(paths)


def test_show_puts_the_digest_on_top() -> None:
    recipe = load_recipe(RECIPES / "qwen3-32b-w8a8-rot.yaml")
    _, lines = render.recipe(recipe)
    assert lines[0] == f"# digest {recipe.digest()}"


def test_secrets_of_a_serve_profile_are_not_shown(outcome: RunResult, tmp_path: Path) -> None:
    """Neither in the serve command at the end of a run nor by `recipe show`, for people and as JSON."""
    recipe = load_recipe(RECIPES / "qwen3-32b-w8a8-rot.yaml")
    secretive = {"extra_args": ("--some-key", "geheim"), "environment": {"VLLM_API_KEY": "geheim", "A": "b"}}
    serve = recipe.smoke.serve.model_copy(update=secretive)
    recipe = recipe.model_copy(update={"smoke": recipe.smoke.model_copy(update={"serve": serve})})
    for value, lines in (
        render.outcome(recipe, Settings(store=tmp_path), outcome),
        render.recipe(recipe),
    ):
        text = json.dumps(value) + "\n".join(lines)
        assert "--some-key" in text and "VLLM_API_KEY" in text and "geheim" not in text


def test_an_empty_store_has_words_too(tmp_path: Path) -> None:
    from quantpipe.store import status

    assert render.statuses(status.collect(Store(tmp_path)))[1] == ["the store is empty"]
