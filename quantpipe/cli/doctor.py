"""`doctor`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from quantpipe.cli.command import SettingsCommand
from quantpipe.cli.emit import emit
from quantpipe.cli.options import output_options
from quantpipe.console import Console
from quantpipe.errors import PreflightError

if TYPE_CHECKING:
    from quantpipe.settings import Settings


@click.command(cls=SettingsCommand)
@output_options
def doctor(settings: Settings, console: Console) -> None:
    """Check this machine: interpreters, devices, memory, disk, and the store's filesystem."""
    from quantpipe import doctor
    from quantpipe.cli import render

    observations = doctor.observe(settings)
    emit(console, *render.doctor(observations))
    if not all(observation.ok for observation in observations):
        sys.exit(PreflightError.exit_code)
