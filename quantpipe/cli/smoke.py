"""`smoke`: a smoke load of any checkpoint directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantpipe.cli.command import SettingsCommand
from quantpipe.cli.emit import emit
from quantpipe.cli.options import PATH, load_recipe, output_options
from quantpipe.cli.signals import stop_on_sigterm
from quantpipe.console import Console

if TYPE_CHECKING:
    from quantpipe.settings import Settings


@click.command(cls=SettingsCommand)
@click.argument("path", type=PATH)
@click.option("--recipe", type=PATH, help="Take the serve profile and the probes from this recipe.")
@click.option(
    "--launcher",
    type=click.Choice(("native", "docker", "podman", "cpu", "attach")),
    help="How to get a server. [the recipe's; else native where NPUs are, cpu elsewhere]",
)
@click.option("--hardware", type=click.Choice(("a2", "a3")), help="The kind of NPU server, for containers.")
@click.option("--url", help="Address of the server, for launcher attach.")
@click.option("--tp", type=click.IntRange(min=1), help="Tensor parallel size. [the recipe's; on a CPU 1]")
@click.option("--print-command", is_flag=True, help="Print the server's command and start nothing.")
@output_options
def smoke(
    path: Path,
    recipe: Path | None,
    print_command: bool,
    settings: Settings,
    console: Console,
    **choice: Any,
) -> None:
    """Load the checkpoint directory PATH in a real server and ask it."""
    from quantpipe.cli import render
    from quantpipe.smoke import standalone

    stop_on_sigterm()
    setup = standalone.setup(load_recipe(recipe) if recipe else None, standalone.Choice(**choice), path)
    if print_command:
        command = standalone.server_command(path, setup, settings)
        emit(console, command.to_json(), [command.shell()])
        return
    emit(console, *render.smoke(standalone.smoke_directory(path, setup, settings, console)))
