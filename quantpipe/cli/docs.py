"""docs/settings.md, docs/commands.md and docs/json.md, from settings, commands and what these print.

`python -m quantpipe.cli.docs` writes them; tests/test_docs.py compares them with what is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from quantpipe.cli import cli
from quantpipe.cli.json_docs import json_page
from quantpipe.host.environment import CONTAINER_CLIENT, PASSED
from quantpipe.recipe import refused
from quantpipe.settings import PROJECT_ROOT, Settings, default_text, flag, kind, variable

_CHILDREN = """\
## What children get of the environment

The quantize worker, the smoke server, its benchmark and a container's client get these variables of the
caller, what the recipe gives them (`smoke.serve.environment`), what `--pass-environment` names, and nothing
else: no token of a hub or a cloud, no proxy. A name that looks like a secret, or an address with a password,
is passed on only if `--pass-environment` names it. A container itself gets what the recipe gives, and nothing
of the caller.

| for | variables |
|---|---|"""

_REFUSED = """\
A recipe is code, and is reviewed like code: this is no sandbox, it keeps a reviewer from having to know each
variable of the dynamic linker and each option of vLLM. What is listed here would run other code than vLLM's
and the checkpoint's, or override what quantpipe sets; `quantpipe recipe check` refuses it, with file, line
and key. Options are recognized in each form that vLLM accepts: `--a_b`, an unambiguous beginning, `--no-X`,
`--x=1`, `--x.key 1`. Of short options only `-O`, `-pp`, `-pcp`, `-dcp`, `-sc`, `-dc` and `-ac` are accepted.
"""


def settings_page() -> str:
    """A row per setting, and what children get of the environment."""
    lines = [
        "# Settings",
        "",
        "How to run; never digested. A flag overrides its environment variable, that overrides the default.",
        "",
        "| flag | variable | value | default | meaning |",
        "|---|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        cells = [f"`{flag(name)}`", f"`{variable(name)}`", kind(name), default_text(name), field.description]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += ["", *_CHILDREN.splitlines()]
    for passed in (*PASSED, CONTAINER_CLIENT):
        lines.append(f"| {passed.purpose} | {', '.join(f'`{name}`' for name in passed.names)} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """A section per command, with its arguments and its own options."""
    lines = [
        "# Commands",
        "",
        "All commands except `recipe` also accept the [settings](settings.md) as flags.",
    ]
    for path, command in sorted(leaf_commands(cli, "quantpipe")):
        context = click.Context(command, info_name=path)
        usage = " ".join([path, *command.collect_usage_pieces(context)])
        lines += ["", f"## `{path}`", "", f"    {usage}", "", _paragraph(command.help), ""]
        for option in command.params:
            if isinstance(option, click.Option):
                names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
                lines.append(f"- {names}: {option.help}")
    return "\n".join(lines) + "\n"


def leaf_commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that is no group, with its full name."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from leaf_commands(inner, f"{path} {name}")


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").split())


def refused_page() -> str:
    """What a recipe may not set, a table per kind."""
    lines = ["# What a recipe may not set", "", *_REFUSED.splitlines()]
    for title, rows in refused.TABLES.items():
        lines += ["", f"## {title}", "", "| names | reason | instead |", "|---|---|---|"]
        for row in rows:
            names = ", ".join(f"`{name}`" for name in row.names)
            lines.append(f"| {names} | {row.reason} | {row.instead} |")
    lines += ["", "## Values", "", "| option | only |", "|---|---|"]
    lines += [f"| `{name}` | {', '.join(map(_code, values))} |" for name, values in refused.VALUES.items()]
    lines.append(f"| options of a mount | {', '.join(map(_code, refused.MOUNT_OPTIONS))} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"`{text}`"


PAGES = {
    "settings.md": settings_page,
    "refused.md": refused_page,
    "commands.md": commands_page,
    "json.md": json_page,
}


def main(folder: Path = PROJECT_ROOT / "docs") -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (folder / name).write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
