from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import write_recipe
from helpers.consoles import said
from helpers.receipts import MANIFEST, QUALITY, quantize_receipt

from quantpipe.console import Console
from quantpipe.errors import QualityError, RecipeError
from quantpipe.quantize import gates
from quantpipe.recipe.load import load_recipe
from quantpipe.settings import Settings
from quantpipe.stage import Context
from quantpipe.store.outputs import QuantizeOutput
from quantpipe.store.quality import LARGEST, LARGEST_DB, LayerQuality, Quality
from quantpipe.store.receipt import Receipts, RunDirectory
from quantpipe.store.store import Store


def context(folder: Path, found: Quality | None, **section: Any) -> Context:
    recipe = load_recipe(write_recipe(folder, quality={"dataset": "held_out.json", **section}))
    receipt = replace(quantize_receipt(), outputs=QuantizeOutput("runs/tiny/1/staging", MANIFEST, found))
    return Context(
        recipe=recipe,
        settings=Settings(),
        store=Store(folder / "store"),
        console=Console("human", stream=io.StringIO()),
        run=RunDirectory(folder),
        receipts=Receipts.of(receipt),
    )


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"max_kl": 0.019}, "KL divergence 0.02 above max_kl 0.019"),
        ({"min_top1": 0.98}, "top-1 agreement 0.97 below min_top1 0.98"),
        ({"max_perplexity_ratio": 1.04}, "perplexity ratio 1.05 above max_perplexity_ratio 1.04"),
        ({"min_layer_sqnr": 31.5}, "SQNR 31 dB of layer 1 below min_layer_sqnr 31.5"),
    ],
    ids=str,
)
def test_a_gate_that_fails_names_where_to_look(tmp_path: Path, section: dict[str, Any], says: str) -> None:
    with pytest.raises(QualityError) as caught:
        gates.require(context(tmp_path, QUALITY, **section))
    assert caught.value.exit_code == 4
    assert says in caught.value.what
    assert caught.value.where is not None and caught.value.where.endswith("runs/tiny/1/quality.json")
    text = "\n".join(caught.value.details)
    assert text.index("layer 1:") < text.index("layer 0:")
    assert "model.layers.1.self_attn.o_proj (W8A8): SQNR 20.5 dB, 0.20% of its inputs clipped" in text
    assert "model.layers.1.mlp.experts.7" in text


def test_all_gates_that_fail_are_named(tmp_path: Path) -> None:
    broken = replace(
        QUALITY,
        kl_mean=LARGEST,
        top1=0.0,
        perplexity_quantized=LARGEST,
        layers=(LayerQuality(0, -LARGEST_DB, -1.0, -LARGEST_DB, -1.0),),
    )
    with pytest.raises(QualityError) as caught:
        gates.require(context(tmp_path, broken))
    for gate in ("max_kl", "min_top1", "max_perplexity_ratio", "min_layer_sqnr"):
        assert gate in caught.value.what


def test_gates_are_one_sided_inclusive_and_can_be_turned_off(tmp_path: Path) -> None:
    gates.require(context(tmp_path, QUALITY))
    gates.require(context(tmp_path, QUALITY, max_kl=0.02, min_top1=0.97, min_layer_sqnr=31.0))
    gates.require(context(tmp_path, replace(QUALITY, perplexity_quantized=5.0), max_perplexity_ratio=1.0))
    gates.require(context(tmp_path, replace(QUALITY, kl_mean=LARGEST), max_kl=None))


def test_without_figures_a_gate_of_the_recipe_is_a_warning(tmp_path: Path) -> None:
    """So a checkpoint that was published before is not quantized again for it."""
    silent, asked = context(tmp_path, None), context(tmp_path, None, max_kl=0.01)
    gates.require(silent)
    gates.require(asked)
    assert said(silent.console) == ""
    assert "the quality gates are not judged" in said(asked.console)


def test_a_published_checkpoint_that_fails_is_a_warning(tmp_path: Path) -> None:
    good, bad = context(tmp_path, QUALITY), context(tmp_path, QUALITY, max_kl=0.01)
    gates.warn(good)
    gates.warn(bad)
    assert said(good.console) == ""
    assert "does not meet the recipe's quality gates: KL divergence 0.02" in said(bad.console)


@pytest.mark.parametrize(
    "sections",
    [
        {"quality": {"measure": False, "max_kl": 0.1}},
        {"quality": {"max_kl": 0.1}, "quantize": {"engine": "stock"}},
        {"quality": {"min_top1": 97}},
        {"quality": {"max_kl": -1}},
    ],
    ids=str,
)
def test_a_gate_that_cannot_be_judged_is_a_problem_of_the_recipe(
    tmp_path: Path, sections: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write_recipe(tmp_path, **sections))
    assert "quality" in "\n".join((caught.value.what, *caught.value.details))
