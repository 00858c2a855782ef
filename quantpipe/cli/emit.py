"""A command's data on stdout, and its failure: JSON for programs, lines for people."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any, NoReturn

import click

from quantpipe.cli import streams
from quantpipe.console import Console
from quantpipe.errors import QuantpipeError
from quantpipe.text import printable


def emit(console: Console, value: Any, lines: list[str], *, done: bool = False) -> None:
    """A command's data, on stdout: JSON for programs, lines for people, nothing when quiet.

    Args:
        done: the command did its work, and its exit status says so, whether its data is read or not: that it
            cannot be written is a warning.

    Raises:
        PreflightError: it cannot be written. A reader that has gone (`| head`) is not an error.
    """
    try:
        if console.mode == "json":
            _echo(_json(value))
        elif console.mode == "human":
            for line in lines:
                _echo(line)
    except BrokenPipeError:
        streams.drop(sys.stdout)
    except OSError as error:
        streams.drop(sys.stdout)
        if not done:
            raise streams.unwritable(error) from error
        console.warning(f"all is done, but its result cannot be written to stdout: {error.strerror}")


def fail(console: Console, error: QuantpipeError) -> NoReturn:
    """End with this error, rendered, and with its exit code: JSON on stdout, or lines on stderr."""
    from quantpipe.cli import render
    from quantpipe.redact import redact

    with contextlib.suppress(OSError, ValueError):  # the exit code says the most important
        if console.mode == "json":
            _echo(redact(_json({"status": "failed", **error.to_json()})))
        else:
            for line in render.error(error):
                _echo(redact(line), err=True)
    sys.exit(error.exit_code)


def _echo(text: str, *, err: bool = False) -> None:
    click.echo(printable(text), err=err)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
