"""`recipe list`, `show` and `check`."""

from __future__ import annotations

from pathlib import Path

import click

from quantpipe.cli.emit import emit
from quantpipe.cli.options import PATH, load_recipe, output_options
from quantpipe.console import Console


@click.group("recipe")
def recipe_group() -> None:
    """List, show and check recipes."""


@recipe_group.command("list")
@output_options
def recipe_list(console: Console) -> None:
    """The recipes that come with quantpipe."""
    from quantpipe.cli import render
    from quantpipe.settings import PROJECT_ROOT

    emit(console, *render.recipes(sorted((PROJECT_ROOT / "recipes").glob("*.yaml"))))


@recipe_group.command("show")
@click.argument("recipe", type=PATH)
@output_options
def recipe_show(recipe: Path, console: Console) -> None:
    """RECIPE with every default filled in."""
    from quantpipe.cli import render

    emit(console, *render.recipe(load_recipe(recipe)))


@recipe_group.command("check")
@click.argument("recipes", type=PATH, nargs=-1, required=True)
@output_options
def recipe_check(recipes: tuple[Path, ...], console: Console) -> None:
    """Check RECIPES and their datasets; all problems at once."""
    checked = [(path, load_recipe(path)) for path in recipes]
    value = [{"path": str(path), "name": loaded.name, "digest": loaded.digest()} for path, loaded in checked]
    emit(console, value, [f"{path}: fine, digest {loaded.digest()[:12]}" for path, loaded in checked])
