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
@click.option("--recipe", type=PATH, help="Use the serve profile and the probes of this recipe.")
@click.option(
    "--launcher",
    type=click.Choice(("native", "docker", "podman", "cpu", "attach")),
    help="How to start the server. [default: the recipe's; else native on NPU hosts, cpu elsewhere]",
)
@click.option("--hardware", type=click.Choice(("a2", "a3")), help="Type of NPU server, for containers.")
@click.option("--url", help="Server address, for launcher attach.")
@click.option(
    "--tp", type=click.IntRange(min=1), help="Tensor parallel size. [default: the recipe's; 1 on a CPU]"
)
@click.option("--print-command", is_flag=True, help="Print the server command without starting it.")
@output_options
def smoke(
    path: Path,
    recipe: Path | None,
    print_command: bool,
    settings: Settings,
    console: Console,
    **choice: Any,
) -> None:
    """Start vLLM on the checkpoint in PATH and run the smoke tests."""
    from quantpipe.cli import render
    from quantpipe.smoke import standalone

    stop_on_sigterm()
    setup = standalone.setup(load_recipe(recipe) if recipe else None, standalone.Choice(**choice), path)
    if print_command:
        command = standalone.server_command(path, setup, settings)
        emit(console, command.to_json(), [command.shell()])
        return
    emit(console, *render.smoke(standalone.smoke_directory(path, setup, settings, console)))
