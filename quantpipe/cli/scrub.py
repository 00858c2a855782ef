"""`scrub`: read again what the store holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from quantpipe.cli.command import SettingsCommand
from quantpipe.cli.emit import emit
from quantpipe.cli.options import PATH, load_recipe, output_options
from quantpipe.cli.signals import stop_on_sigterm
from quantpipe.console import Console
from quantpipe.errors import VerificationError

if TYPE_CHECKING:
    from quantpipe.settings import Settings


@click.command(cls=SettingsCommand)
@click.argument("recipes", type=PATH, nargs=-1, metavar="[RECIPE]...")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="AMOUNT",
    help="Read for so long (30m, 2h), or so much (200GiB); give it twice for both.",
)
@click.option("--older-than", metavar="TIME", help="Leave out what was verified since so long ago (7d).")
@output_options
def scrub(
    recipes: tuple[Path, ...],
    budgets: tuple[str, ...],
    older_than: str | None,
    settings: Settings,
    console: Console,
) -> None:
    """Read generations and snapshots again, of RECIPEs or of all, and compare them with their manifests.

    What was verified longest ago comes first. Exits 3 where something differs: a run then makes it again.
    """
    from quantpipe.cli import render
    from quantpipe.operate.budget import Budget, parse_seconds
    from quantpipe.operate.scrub import scrub
    from quantpipe.store.store import Store

    budget = Budget.parse(budgets)
    age = parse_seconds(older_than) if older_than is not None else 0.0
    names = [load_recipe(recipe).name for recipe in recipes] or None
    stop_on_sigterm()
    report = scrub(
        Store.at(settings.store), console, recipes=names, budget=budget, older_than=age, jobs=settings.jobs
    )
    emit(console, *render.scrubbed(report), done=True)
    if report.status == "damaged":
        sys.exit(VerificationError.exit_code)
    if report.status == "unread":
        sys.exit(report.unread[0].exit_code)
