"""A command's data on stdout, and its failure: JSON for programs, lines for people."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

import click

from quantpipe.console import Console
from quantpipe.errors import QuantpipeError


def emit(console: Console, value: Any, lines: list[str]) -> None:
    """A command's data, on stdout: JSON for programs, lines for people, nothing when quiet."""
    if console.mode == "json":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
    elif console.mode == "human":
        for line in lines:
            click.echo(line)


def fail(console: Console, error: QuantpipeError) -> NoReturn:
    """End with this error, rendered, and with its exit code: JSON on stdout, or lines on stderr."""
    from quantpipe.cli import render
    from quantpipe.redact import redact

    if console.mode == "json":
        click.echo(redact(json.dumps({"status": "failed", **error.to_json()}, indent=2, ensure_ascii=False)))
    else:
        for line in render.error(error):
            click.echo(redact(line), err=True)
    sys.exit(error.exit_code)
