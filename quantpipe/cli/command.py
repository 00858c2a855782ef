"""The command classes: the group, which configures reporting, and commands that accept the settings."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import click

from quantpipe.cli import streams
from quantpipe.cli.options import BEGUN, PATH
from quantpipe.console import Console
from quantpipe.errors import RetryableError


class Root(click.Group):
    """The group of all commands; its object is the console."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Until a command has parsed its own options, errors are reported as these arguments request."""
        if "--json" in args:
            ctx.ensure_object(Console).mode = "json"
        with _written_help(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command.

        Raises:
            RetryableError: a pipe or connection of the command's work broke. click takes that for a reader of
                stdout that has gone, and would silently exit with 1; `emit` deals with those.
            PreflightError: the help cannot be written.
        """
        try:
            with _written_help(ctx):
                return super().invoke(ctx)
        except BrokenPipeError as error:
            raise RetryableError(
                "a pipe or connection broke", hint="run again: finished work is kept"
            ) from error


@contextlib.contextmanager
def _written_help(ctx: click.Context) -> Iterator[None]:
    """Help and version are data: a reader that has gone (`| head`) is no error, a full disk is one."""
    try:
        yield
    except OSError as error:
        if BEGUN in ctx.meta or error.filename is not None:
            raise
        streams.drop(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            raise streams.unwritable(error) from error
        ctx.exit()


class SettingsCommand(click.Command):
    """A command whose function gets `settings`; their options are made from the fields of `Settings`.

    They are made only when this command's options are needed: `quantpipe --help` does not, and imports no
    pydantic.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own options, then those of the settings."""
        *own, help_option = super().get_params(ctx)
        return [*own, *_settings_options(), help_option]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The settings under a heading of their own."""
        settings = {option.name for option in _settings_options()}
        records = [
            (param.name in settings, param.get_help_record(ctx))
            for param in self.get_params(ctx)
            if isinstance(param, click.Option)
        ]
        for heading, wanted in (("Options", False), ("Settings", True)):
            with formatter.section(heading):
                formatter.write_dl([record for is_one, record in records if record and is_one is wanted])

    def invoke(self, ctx: click.Context) -> Any:
        """Call the function with the values of flags, environment and defaults.

        Raises:
            UsageError: one of them is wrong.
        """
        from quantpipe.settings import Settings

        flags = {name: ctx.params.pop(name) for name in Settings.model_fields}
        given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
        ctx.params["settings"] = Settings(**given)
        return super().invoke(ctx)


@cache
def _settings_options() -> list[click.Option]:
    """An option per setting. Its text is passed to `Settings` unchanged, which parses variables, too."""
    from quantpipe import settings

    options = []
    for name, field in settings.Settings.model_fields.items():
        is_path = (kind := settings.kind(name)) == "a path"
        default = settings.default_text(name)
        options.append(
            click.Option(
                [settings.flag(name)],
                type=PATH if is_path else click.STRING,
                metavar="PATH" if is_path else "LIST" if kind.startswith("a list") else "NUMBER",
                help=f"{field.description} [{settings.variable(name)}{'; ' + default if default else ''}]",
            )
        )
    return options
