"""What the documentation has to name: every command, option, setting and exit code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from helpers.commands import ROOT
from pydantic import BaseModel

from quantpipe import errors
from quantpipe.cli import cli
from quantpipe.cli.docs import PAGES
from quantpipe.errors import QuantpipeError
from quantpipe.recipe.model import Recipe


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    """`python -m quantpipe.cli.docs` writes them."""
    assert (ROOT / "docs" / name).read_text("utf-8") == PAGES[name]()


def test_every_exit_code_has_a_row() -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text("utf-8")
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, QuantpipeError)]
    for code in {0, *(kind.exit_code for kind in kinds)}:
        assert f"\n| {code} | " in page


# -- command lines ------------------------------------------------------------------------------------

COMMAND_LINE = re.compile(r"^(?:    |\$ )quantpipe +(.*)", re.MULTILINE)
INLINE = re.compile(r"`quantpipe +([^`\n]*)`")
END = re.compile(r"\s+#|\s+[>|]\s|\S\s{3,}")
"""Of a command line: a comment, a redirection, or a column with an explanation."""


def command_lines() -> Iterator[tuple[str, str]]:
    """Page and arguments of every command line in README and docs, but those of generated pages."""
    pages = [page for page in (ROOT / "docs").glob("*.md") if page.name not in PAGES]
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(pages)]:
        text = page.read_text("utf-8")
        for line in [*COMMAND_LINE.findall(text), *INLINE.findall(text)]:
            end = END.search(line)
            yield page.name, line if end is None else line[: end.end()].split("#")[0].rstrip(" >|")


def parse(arguments: list[str]) -> None:
    """Parse a command line as `quantpipe` does, without calling anything.

    Raises:
        click.ClickException: there is no such command or option, or a value is wrong.
    """
    command: click.Command = cli
    while isinstance(command, click.Group) and arguments:
        context = click.Context(command)
        _, found, arguments = command.resolve_command(context, arguments)
        assert found is not None
        command = found
    if not isinstance(command, click.Group):
        command.make_context(command.name, arguments)


COMMAND_LINES = list(dict.fromkeys(command_lines()))


@pytest.mark.parametrize(("page", "line"), COMMAND_LINES, ids=map(" ".join, COMMAND_LINES))
def test_command_lines_of_the_documentation_parse(page: str, line: str) -> None:
    arguments = shlex.split(re.sub(r"[\[\]]|\.\.\.", "", line))
    try:
        parse(arguments)
    except click.exceptions.Exit as end:
        assert end.exit_code == 0
    except click.MissingParameter:
        assert len(arguments) <= 2, "only a name of a command in a sentence goes without its arguments"


def test_a_command_line_that_is_outdated_is_noticed() -> None:
    with pytest.raises(click.UsageError, match="No such option"):
        parse(["plan", "x", "--no-such-option"])
    with pytest.raises(click.UsageError, match="No such command"):
        parse(["recipe", "paint"])
    assert len(COMMAND_LINES) > 25


# -- recipe keys --------------------------------------------------------------------------------------


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections(argument)


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The paths of all keys of a recipe that hold a value."""
    for name, field in model.model_fields.items():
        inner = list(sections(field.annotation))
        if not inner or any(kind is bool for kind in get_args(field.annotation)):
            yield prefix + name
        for section in inner:
            yield from keys(section, f"{prefix}{name}.")


def rows() -> dict[str, str]:
    """Of the table in docs/recipes.md: the row of each key in its first column."""
    found: dict[str, str] = {}
    for row in re.findall(r"^\| `[a-z].*$", (ROOT / "docs" / "recipes.md").read_text("utf-8"), re.MULTILINE):
        last = ""
        for name in re.findall(r"`([^`]+)`", row.split("|")[1]):
            last = last.rpartition(".")[0] + name if name.startswith(".") else name
            found[last] = row
    return found


def test_every_recipe_key_is_documented() -> None:
    """In a row of its own, or by its last name in the row of what it belongs to."""
    documented = rows()
    for key in keys(Recipe):
        above = [key.rsplit(".", depth)[0] for depth in range(1, key.count(".") + 1)]
        places = [documented[name] for path in above for name in (path, f"{path}.*") if name in documented]
        assert key in documented or any(f"`{key.rpartition('.')[2]}`" in row for row in places), key


def test_no_recipe_key_is_documented_that_does_not_exist() -> None:
    known = set(keys(Recipe))
    known |= {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    assert {key.removesuffix(".*") for key in rows()} <= known


# -- variables and links ------------------------------------------------------------------------------


def test_every_variable_of_quantpipe_is_documented() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    read: set[str] = set()
    for path in (ROOT / "quantpipe").rglob("*.py"):
        read |= set(re.findall(r"\bQUANTPIPE_[A-Z_]*[A-Z]\b", path.read_text("utf-8")))
    own = {"QUANTPIPE_RUN_ID"}  # marks the processes of a run: set by quantpipe, read by quantpipe
    assert {name for name in read - own if f"`{name}`" not in page} == set()


ALL_PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
