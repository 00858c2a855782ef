"""Load a recipe: find it, parse it, check it, read the files that it names. After that it is a value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from quantpipe.errors import RecipeError
from quantpipe.recipe.files import Loading, read_text
from quantpipe.recipe.model import Recipe
from quantpipe.recipe.problems import refusal
from quantpipe.recipe.shipped import find_recipe
from quantpipe.recipe.source import default_hub
from quantpipe.recipe.yaml_lines import parse


def load_recipe(recipe: str | Path, environment: Mapping[str, str] = os.environ) -> Recipe:
    """Read, check and resolve a recipe, its datasets and its probes included.

    All that it names on disk is read here, and here only; relative paths begin at its folder.

    Args:
        recipe: a path, or the name of a shipped recipe; an existing path wins.
        environment: its VLLM_USE_MODELSCOPE chooses the hub of a source that names none.

    Raises:
        RecipeError: with all problems, each with its line and its key.
    """
    path = find_recipe(recipe)
    value, lines = parse(read_text(path), path)
    if not isinstance(value, dict):
        raise RecipeError(
            "a recipe is a mapping of sections",
            where=str(path),
            hint="`quantpipe recipe copy` copies a shipped recipe to start from",
        )
    loading = Loading(path.parent.absolute(), default_hub(environment))
    try:
        return Recipe.model_validate(value, context=loading)
    except ValidationError as error:
        raise refusal(path, error.errors(), lines, Recipe) from None
