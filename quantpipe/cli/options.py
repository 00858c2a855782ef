"""Options that commands share: how to report (a console), how to run (settings), what to build (a recipe)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quantpipe.console import Console, Mode
from quantpipe.store.stages import STAGE_NAMES

if TYPE_CHECKING:
    from quantpipe.recipe.model import Recipe

Command = TypeVar("Command", bound=Callable[..., Any])

STAGE = click.Choice(STAGE_NAMES)
PATH = click.Path(path_type=Path)


def output_options(command: Command) -> Command:
    """`--json`, `-q` and `-v`, turned into a console."""

    @click.option("--json", "as_json", is_flag=True, help="JSON on stdout, events as JSON lines on stderr.")
    @click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
    @click.option("-v", "--verbose", is_flag=True, help="Say more.")
    @wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> Any:
        mode: Mode = "json" if as_json else "quiet" if quiet else "human"
        context = click.get_current_context()
        context.obj = console = Console(mode, verbose=verbose)
        return command(*args, console=console, **options)

    return wrapped  # type: ignore[return-value]


def settings_options(command: Command) -> Command:
    """The settings that commands share, turned into `Settings`."""

    @click.option("--store", type=PATH, help="Root of the store. [QUANTPIPE_STORE; ./store]")
    @click.option("--quantize-python", type=PATH, help="Interpreter with msmodelslim. [.venv-quantize]")
    @click.option("--serve-python", type=PATH, help="Interpreter with vLLM. [.venv-serve]")
    @click.option("--jobs", type=int, help="Files fetched or hashed at a time.")
    @click.option("--port", type=int, help="Port of the smoke server. [a free one]")
    @wraps(command)
    def wrapped(
        *args: Any,
        store: Path | None,
        quantize_python: Path | None,
        serve_python: Path | None,
        jobs: int | None,
        port: int | None,
        **options: Any,
    ) -> Any:
        from quantpipe.settings import Settings

        settings = Settings.resolve(
            store=store, quantize_python=quantize_python, serve_python=serve_python, jobs=jobs, port=port
        )
        return command(*args, settings=settings, **options)

    return wrapped  # type: ignore[return-value]


def load_recipe(path: Path) -> Recipe:
    """The recipe of this file, checked.

    Raises:
        RecipeError: all of its problems at once.
    """
    from quantpipe.recipe import load as recipe_file

    return recipe_file.load(path)
