from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from helpers.receipts import fetch_receipt, publish_receipt, quantize_receipt, verify_receipt

from quantpipe.cli.options import STAGE
from quantpipe.console import Console
from quantpipe.pipeline import Selection
from quantpipe.recipe.files import Prompts
from quantpipe.recipe.model import Recipe
from quantpipe.settings import Settings
from quantpipe.stage import STAGE_NAMES, Context, FetchPlan, Receipt, Receipts
from quantpipe.store.outputs import CONTENTS
from quantpipe.store.store import Store


@pytest.fixture
def context(tmp_path: Path) -> Context:
    store = Store(tmp_path)
    return Context(
        recipe=Recipe.model_validate(
            {
                "name": "tiny",
                "source": {"hub": "local", "repo": "/m"},
                "quantize": {"calibration": {"dataset": Prompts(Path("d"), ("a prompt",))}},
            }
        ),
        settings=Settings(store=store.root),
        store=store,
        console=Console(stream=io.StringIO()),
        run=store.new_run("tiny"),
    )


def test_the_names_of_the_stages_have_one_home() -> None:
    assert tuple(stage.name for stage in Selection().stages()) == STAGE_NAMES
    assert tuple(CONTENTS) == STAGE_NAMES
    assert tuple(STAGE.choices) == STAGE_NAMES


def test_a_stage_sees_what_the_stages_before_it_handed_on(context: Context) -> None:
    done: list[Receipt[Any, Any]] = [
        fetch_receipt(),
        quantize_receipt(),
        verify_receipt("ab"),
        publish_receipt("ab"),
    ]
    context.receipts = Receipts.of(*done)
    handed_on: list[object] = [context.fetch, context.quantize, context.verify, context.publish]
    assert handed_on == [receipt.outputs for receipt in done]
    context.plans["fetch"] = FetchPlan("fetch", "run", "", source_bytes=7)
    assert context.plans.fetch.source_bytes == 7


@pytest.mark.parametrize("stage", ["fetch", "quantize", "verify", "publish"])
def test_a_stage_that_has_not_finished_hands_on_nothing(context: Context, stage: str) -> None:
    with pytest.raises(KeyError, match=stage):
        getattr(context, stage)
