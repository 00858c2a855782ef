"""`status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantpipe.cli.command import SettingsCommand
from quantpipe.cli.emit import emit
from quantpipe.cli.options import PATH, load_recipe, output_options
from quantpipe.console import Console

if TYPE_CHECKING:
    from quantpipe.settings import Settings


@click.command(cls=SettingsCommand)
@click.argument("recipe", type=PATH, required=False)
@output_options
def status(recipe: Path | None, settings: Settings, console: Console) -> None:
    """Show what is published, what is running, and what failed and why."""
    from quantpipe.cli import render
    from quantpipe.store import status
    from quantpipe.store.store import Store

    name = load_recipe(recipe).name if recipe else None
    emit(console, *render.statuses(status.collect(Store.at(settings.store), name)))
