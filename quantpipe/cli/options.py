"""What commands share: the options for how to report, types of parameters, and loading the recipe."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantpipe.console import Console
from quantpipe.store.stages import STAGE_NAMES

if TYPE_CHECKING:
    from quantpipe.recipe.model import Recipe

Command = TypeVar("Command", bound=Callable[..., Any])

STAGE = click.Choice(STAGE_NAMES)
PATH = click.Path(path_type=Path)

BEGUN = "quantpipe.begun"
"""In the meta of the context: the command's function was called; what was written before is help."""


def output_options(command: Command) -> Command:
    """`--json`, `-q` and `-v`: the command's function gets `console`."""

    @click.option(
        "--json", "as_json", is_flag=True, help="Print JSON on stdout, and events as JSON lines on stderr."
    )
    @click.option("-q", "--quiet", is_flag=True, help="Print only errors.")
    @click.option("-v", "--verbose", is_flag=True, help="Verbose output.")
    @wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> Any:
        context = click.get_current_context()
        context.meta[BEGUN] = True
        console = context.ensure_object(Console)
        console.mode = "json" if as_json else "quiet" if quiet else "human"
        console.verbose = verbose
        return command(*args, console=console, **options)

    return wrapped  # type: ignore[return-value]


def load_recipe(recipe: Path) -> Recipe:
    """The recipe of this path, or the shipped one of this name, checked.

    Raises:
        RecipeError: all of its problems at once.
    """
    import quantpipe

    return quantpipe.load_recipe(recipe)
