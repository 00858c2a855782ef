"""A recipe of any text is a recipe or a RecipeError, and what is a recipe has a digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.commands import ROOT
from hypothesis import strategies as st

from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.model import Recipe
from quantpipe.recipe.probes import load_probes

from .harness import altered, edited, ends, fuzz, json_texts

TEXTS = [path.read_bytes() for path in sorted((ROOT / "recipes").glob("*.yaml"))]
SEEDS: list[Any] = [yaml.safe_load(text) for text in TEXTS]
TOKENS = (
    b"&a ",
    b"*a",
    b"<<: *a",
    b"{",
    b"[",
    b"- ",
    b": ",
    b"!!int ",
    b"!!float ",
    b"'",
    b'"',
    b"|\n",
    b"\t",
)
PROBES = [{"prompt": "One", "continuation": "two", "max_tokens": 4, "chat": True}]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes") / "r.yaml"


def dumped(value: Any) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


def used(path: Path) -> Recipe:
    """Load it, and ask for what every command asks for."""
    recipe = load_recipe(path, {})
    assert len(recipe.digest()) == 64
    recipe.stage_inputs()
    recipe.model_dump_json()
    return recipe


@fuzz(st.one_of(*(altered(seed).map(dumped) for seed in SEEDS)), share=0.5)
def test_values(place: Path, text: bytes) -> None:
    place.write_bytes(text)
    ends(lambda: used(place))


@fuzz(edited(TEXTS, TOKENS), share=0.5)
def test_texts(place: Path, text: bytes) -> None:
    place.write_bytes(text)
    ends(lambda: used(place))


@fuzz(json_texts(PROBES))
def test_probes(place: Path, text: bytes) -> None:
    place.write_bytes(text)
    ends(lambda: load_probes(place))
