"""`run` and `plan`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantpipe.cli.command import SettingsCommand
from quantpipe.cli.emit import emit
from quantpipe.cli.options import PATH, STAGE, load_recipe, output_options
from quantpipe.cli.signals import stop_on_sigterm
from quantpipe.console import Console

if TYPE_CHECKING:
    from quantpipe.settings import Settings
    from quantpipe.store.stages import StageName


@click.command(cls=SettingsCommand)
@click.argument("recipe", type=PATH)
@click.option("--from", "first", type=STAGE, help="Start with this stage; earlier stages must be up to date.")
@click.option("--until", "last", type=STAGE, help="Stop after this stage.")
@click.option("--force", type=STAGE, help="Run this stage and all later ones, even if up to date.")
@click.option("--deep", is_flag=True, help="Rehash the snapshot instead of trusting file sizes and times.")
@output_options
def run(
    recipe: Path,
    first: StageName | None,
    last: StageName | None,
    force: StageName | None,
    deep: bool,
    settings: Settings,
    console: Console,
) -> None:
    """Run the pipeline for RECIPE; resumes an interrupted run."""
    import quantpipe
    from quantpipe.cli import render

    stop_on_sigterm()
    loaded = load_recipe(recipe)
    outcome = quantpipe.run(loaded, settings, console, quantpipe.Selection(first, last, force, deep))
    emit(console, *render.outcome(loaded, settings, outcome), done=True)


@click.command(cls=SettingsCommand)
@click.argument("recipe", type=PATH)
@output_options
def plan(recipe: Path, settings: Settings, console: Console) -> None:
    """Show what a run of RECIPE would do: bytes, disk and memory. Exits with 5 if preflight fails."""
    import quantpipe
    from quantpipe.cli import render

    plans, obstacles = quantpipe.plan(load_recipe(recipe), settings, console)
    emit(console, *render.plans(plans, obstacles))
    if obstacles:
        sys.exit(obstacles[0].exit_code)
