"""`verify`: the static checks on any checkpoint directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from quantpipe.cli.command import SettingsCommand
from quantpipe.cli.emit import emit
from quantpipe.cli.options import PATH, load_recipe, output_options
from quantpipe.console import Console
from quantpipe.errors import VerificationError

if TYPE_CHECKING:
    from quantpipe.settings import Settings


@click.command(cls=SettingsCommand)
@click.argument("path", type=PATH)
@click.option("--recipe", type=PATH, help="Use the target and the serve profile of this recipe.")
@click.option("--against", type=PATH, help="Compare the weights with this BF16 model directory.")
@click.option("--tp", type=click.IntRange(min=1), help="Tensor parallel size.")
@click.option("--dp", type=click.IntRange(min=1), help="Data parallel size.")
@click.option("--ep", is_flag=True, help="Use expert parallel.")
@click.option("--target", help="vLLM-Ascend version that will serve it. [default: vllm-ascend==0.23.0]")
@click.option(
    "--device-memory", type=click.FloatRange(min=0, min_open=True), help="Memory of one device, in GiB."
)
@click.option("--deep", is_flag=True, help="Read all tensor values, not only headers.")
@click.option(
    "--hashes/--no-hashes", default=True, help="Compare files with the manifest. [default: --hashes]"
)
@click.option("--write-manifest", is_flag=True, help="Write a manifest if all checks pass.")
@output_options
def verify(path: Path, recipe: Path | None, settings: Settings, console: Console, **options: Any) -> None:
    """Check that vLLM-Ascend will serve the checkpoint in PATH correctly, whoever made it."""
    import quantpipe

    loaded = load_recipe(recipe) if recipe else None
    report = quantpipe.verify(path, recipe=loaded, jobs=settings.jobs, console=console, **options)
    emit(console, report.to_json(), report.lines())
    if not report.ok:
        sys.exit(VerificationError.exit_code)
