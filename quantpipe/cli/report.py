"""`report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantpipe.cli.command import SettingsCommand
from quantpipe.cli.emit import emit
from quantpipe.cli.options import PATH, output_options
from quantpipe.console import Console

if TYPE_CHECKING:
    from quantpipe.settings import Settings


@click.command(cls=SettingsCommand)
@click.argument("recipe", type=PATH, required=False)
@click.option("--generation", metavar="DIGEST", help="First digits of a generation. [the current one]")
@click.option("--run", metavar="ID", help="The generation that this run published.")
@click.option("--output", type=PATH, metavar="FOLDER", help="Write here. [the store, with the generation]")
@output_options
def report(
    recipe: Path | None,
    generation: str | None,
    run: str | None,
    output: Path | None,
    settings: Settings,
    console: Console,
) -> None:
    """Write a report of RECIPE's current generation: page, text and JSON. Without RECIPE, of the whole store.

    RECIPE is a file, or the name of a recipe in the store. With --json, nothing is written without --output.
    """
    from quantpipe.cli import render
    from quantpipe.report import report_generation, report_store
    from quantpipe.store.store import Store

    store, keep = Store.at(settings.store), console.mode != "json"
    if recipe is None:
        found, page = report_store(store, output, keep=keep)
        emit(console, *render.store_reported(found, page), done=page is not None)
    else:
        made = report_generation(store, recipe, generation=generation, run=run, output=output, keep=keep)
        emit(console, *render.reported(*made), done=made[1] is not None)
