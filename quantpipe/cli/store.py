"""What changes the store without a run: `rollback` and `prune`."""

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
@click.argument("recipe", type=PATH)
@click.option("--reason", help="Reason, recorded in the history.")
@click.option(
    "--hashes/--no-hashes",
    default=True,
    help="Hash the generation before the pointer moves to it; otherwise only names and sizes. [--hashes]",
)
@output_options
def rollback(recipe: Path, reason: str | None, hashes: bool, settings: Settings, console: Console) -> None:
    """Roll RECIPE back to the previous generation."""
    from quantpipe.cli import render
    from quantpipe.publish import retention
    from quantpipe.store.sealed import glance_at_sealed
    from quantpipe.store.store import Store

    name, store = load_recipe(recipe).name, Store.at(settings.store)
    hashed = retention.hashing(store, console, jobs=settings.jobs)
    check = hashed if hashes else glance_at_sealed
    done = retention.rollback(store, name, reason=reason, check=check)
    emit(console, *render.rolled_back(name, done), done=True)


@click.command(cls=SettingsCommand)
@click.option("--yes", is_flag=True, help="Remove, instead of only listing.")
@click.option(
    "--keep", type=click.IntRange(min=2), default=2, show_default=True, help="Number of generations to keep."
)
@output_options
def prune(yes: bool, keep: int, settings: Settings, console: Console) -> None:
    """List what retention would remove from the store; --yes removes it."""
    from quantpipe.cli import render
    from quantpipe.publish import prune
    from quantpipe.store.store import Store

    store = Store.at(settings.store)
    candidates = prune.candidates(store, keep=keep, on_unreadable=console.warning)
    if yes:
        candidates = prune.remove(store, candidates)
    emit(console, *render.pruned(candidates, removed=yes), done=yes)
