from __future__ import annotations

import io
from pathlib import Path

import pytest
from helpers.golden import DIGEST, NAME, golden_recipe, golden_store

from quantpipe.console import Console
from quantpipe.recipe.load import load_recipe
from quantpipe.settings import Settings
from quantpipe.stage import Context


@pytest.fixture
def finished_run(tmp_path: Path) -> Context:
    """The run of the golden store, at its end."""
    store = golden_store(tmp_path)
    return Context(
        recipe=load_recipe(golden_recipe(tmp_path)),
        settings=Settings(store=store.root),
        store=store,
        console=Console(stream=io.StringIO()),
        run=store.runs(NAME)[-1],
        receipts=store.load_receipts(NAME, DIGEST),
    )
