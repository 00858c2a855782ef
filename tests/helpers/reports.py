"""A store with two published generations of the golden recipe, as full of figures as that of a 235B model."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers.golden import DIGEST, NAME, golden_recipe, golden_store
from quantpipe import durable
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.model import Recipe
from quantpipe.report.gather import report_of
from quantpipe.report.write import keep_report
from quantpipe.store.history import Move
from quantpipe.store.outputs import Cost
from quantpipe.store.quality import (
    LayerQuality,
    LinearQuality,
    PromptQuality,
    Quality,
    QualityReport,
)
from quantpipe.store.receipt import Receipt, Receipts
from quantpipe.store.store import Store

SECOND = "b" * 64
"""The digest of the second generation; its files are those of the first one."""

LAYERS = 94
COSTS = {
    "fetch": Cost(150 << 20, 0, None),
    "quantize": Cost(21 << 30, 24 << 30, 5400.0),
    "verify": Cost(1 << 30, 0, None),
    "smoke": Cost(9 << 30, 0, None),
    "publish": Cost(60 << 20, 0, None),
}


def quality(kl: float = 0.0187, layers: int = LAYERS, *, file: str = "") -> Quality:
    """Figures of a model that loses what W8A8 loses."""
    found = tuple(
        LayerQuality(
            i,
            34 + 3 * math.sin(i / 5),
            0.99981,
            34 - 16 * (1 - math.exp(-i / 20)),
            0.9991 - i * 1e-5,
        )
        for i in range(layers)
    )
    worst = tuple(
        LinearQuality(
            f"model.layers.{i}.mlp.experts.{7 * i}.down_proj",
            "W8A8_DYNAMIC",
            17.0 + i,
            0.0081,
            0.0,
            412 * i,
            57 * i,
        )
        for i in range(10)
    )
    return Quality(
        kl_mean=kl,
        kl_p99=kl * 11,
        top1=0.9714,
        perplexity_bf16=9.871,
        perplexity_quantized=9.871 * (1 + kl / 2),
        tokens=2681,
        dataset="d" * 64,
        layers=found,
        worst_linears=worst,
        unreached_experts=("model.layers.3.mlp.experts.17", "model.layers.90.mlp.experts.2"),
        file=file,
    )


def quality_file(store: Store, run: Path, summary: Quality, layers: int = 4, experts: int = 8) -> None:
    """All figures, with the tokens of each expert; expert 5 of layer 2 got none."""
    linears = tuple(
        LinearQuality(
            f"model.layers.{layer}.mlp.experts.{expert}.{part}", "W8A8_DYNAMIC", 30.0, 0.01, 0.0, 9, tokens
        )
        for layer in range(layers)
        for expert in range(experts)
        for part in ("gate_proj", "down_proj")
        for tokens in ([0] if (layer, expert) == (2, 5) else [100 * expert + layer])
    )
    prompts = (PromptQuality((1, 2), (-1.0,), (-1.1,), (0.01,)),)
    durable.write_json(store.absolute(summary.file), QualityReport(summary, linears, prompts).to_json())


def reported_store(folder: Path) -> tuple[Store, Recipe]:
    """The golden store with figures of today, and a second generation that is current."""
    store = golden_store(folder)
    recipe = load_recipe(golden_recipe(folder))
    run = store.runs(NAME)[-1]
    before = quality(0.0121, file=store.relative(run.path / "quality.json"))
    quality_file(store, run.path, before)
    _publish(store, DIGEST, before, run.id)
    keep_report(store, report_of(store, NAME, DIGEST, recipe))
    generation = store.generation(NAME, SECOND)
    shutil.copytree(store.generation(NAME, DIGEST), generation)
    _publish(store, SECOND, quality(file=before.file), run.id, msmodelslim="26.2.0", bytes=1_381_000)
    return store, recipe


def _publish(store: Store, digest: str, figures: Quality, run: str, **changed: Any) -> None:
    receipts = store.load_receipts(NAME, DIGEST)
    quantize = receipts.quantize
    versions = {**quantize.figures.versions, "msmodelslim": changed.pop("msmodelslim", "26.1.0")}
    quantized = replace(
        quantize,
        outputs=replace(quantize.outputs, quality=figures),
        figures=replace(quantize.figures, versions=versions, **changed),
    )
    found: list[Receipt[Any, Any]] = [
        replace(quantized if receipt.stage == "quantize" else receipt, cost=COSTS[receipt.stage])
        for receipt in receipts.values()
    ]
    store.save_receipts(NAME, digest, Receipts.of(*found))
    pointer = store.pointer(NAME)
    if pointer.named() == digest:
        pointer.history.record(Move.of_now(digest, "publish", previous=None, run=run))
    else:
        pointer.path.unlink()
        pointer.history.record(Move.of_now(digest, "publish", previous=DIGEST, run=run))
        pointer.path.symlink_to(digest)
