"""`recipe list`, `show`, `check`, `copy` and `schema`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from quantpipe.cli.emit import emit
from quantpipe.cli.options import PATH, load_recipe, output_options
from quantpipe.cli.values import CheckedRecipeJson, CopiedRecipeJson
from quantpipe.console import Console


@click.group("recipe")
def recipe_group() -> None:
    """List, show, check and copy recipes.

    RECIPE is always a path or the name of a shipped recipe.
    """


@recipe_group.command("list")
@output_options
def recipe_list(console: Console) -> None:
    """List the recipes that ship with quantpipe, by name."""
    from quantpipe.cli import render
    from quantpipe.recipe import shipped

    emit(console, *render.recipes(shipped.recipes()))


@recipe_group.command("show")
@click.argument("recipe", type=PATH)
@output_options
def recipe_show(recipe: Path, console: Console) -> None:
    """Print RECIPE with all defaults filled in."""
    from quantpipe.cli import render

    emit(console, *render.recipe(load_recipe(recipe)))


@recipe_group.command("check")
@click.argument("recipes", type=PATH, nargs=-1, required=True)
@output_options
def recipe_check(recipes: tuple[Path, ...], console: Console) -> None:
    """Check RECIPES and their datasets; report all problems at once."""
    checked = [(path, load_recipe(path)) for path in recipes]
    value: list[CheckedRecipeJson] = [
        {"path": str(path), "name": loaded.name, "digest": loaded.digest()} for path, loaded in checked
    ]
    emit(console, value, [f"{path}: ok, digest {loaded.digest()[:12]}" for path, loaded in checked])


@recipe_group.command("copy")
@click.argument("name")
@click.argument("path", type=PATH)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@output_options
def recipe_copy(name: str, path: Path, force: bool, console: Console) -> None:
    """Copy the shipped recipe NAME to PATH, as a starting point."""
    from quantpipe.recipe.copy import copy_recipe

    written = copy_recipe(name, path, force=force)
    loaded = load_recipe(written)
    value: CopiedRecipeJson = {"path": str(written), "name": loaded.name, "copied": name}
    emit(console, value, [f"{written}: a copy of {name}, named {loaded.name}"])


@recipe_group.command("schema")
@output_options
def recipe_schema(console: Console) -> None:
    """Print the JSON schema of recipe files, for editors."""
    from quantpipe.recipe import schema

    value = schema.recipe_schema()
    emit(console, value, json.dumps(value, indent=2, ensure_ascii=False).splitlines())
