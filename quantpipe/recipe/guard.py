"""Look for what a recipe may not set: the tables of refused.py, applied to a serve profile and to mounts."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from quantpipe.recipe.refused import (
    ALLOWED_VARIABLES,
    KEYS,
    MOUNT_OPTIONS,
    OPTIONS,
    PARTS,
    TREES,
    VALUES,
    VARIABLES,
    WHOLE_FOLDERS,
)

REFUSED = "refused"
"""Type of a validation error whose message says all: the value may be a secret."""

_WHOLE = ("--reasoning-parser",)
"""Options of vLLM that are allowed, although a refused one begins with their name."""

_SHORT = re.compile(r"-(?:O\d?|pp|pcp|dcp|sc|dc|ac)(?:=.*)?", re.DOTALL)
"""Short options that are allowed; `-tp`, `-dp`, `-q` and the like are those of `OPTIONS`."""

_NUMBER = re.compile(r"-\.?\d.*")

Found = Iterator[tuple[tuple[str | int, ...], str]]
"""Where, below the key that is looked at, and what is wrong there."""


def require_none(found: Found) -> None:
    """Refuse what was found, each at its place below the field that is being validated.

    Raises:
        ValidationError: something was found.
    """
    errors = [
        InitErrorDetails(type=PydanticCustomError(REFUSED, "{what}", {"what": what}), loc=at, input=None)
        for at, what in found
    ]
    if errors:
        raise ValidationError.from_exception_data("serve profile", errors)


def refused_variables(names: Sequence[str]) -> Found:
    """The variables that a recipe may not set."""
    for name in names:
        for refused in VARIABLES:
            if name not in ALLOWED_VARIABLES and any(fnmatchcase(name, one) for one in refused.names):
                yield (name,), refused.message(name)
                break
        else:
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                yield (name,), "a variable's name has letters, digits and underscores only"


def refused_options(arguments: Sequence[str]) -> Found:
    """The options that a recipe may not give, written as vLLM's parser accepts them.

    It takes underscores for dashes, a unique beginning for the whole, `--no-X` for a switch, `--X.key value`
    for a key of JSON, and the value after `=` or as the next argument.
    """
    option = inner = ""
    for index, argument in enumerate(arguments):
        what = None
        if argument.startswith("-") and not _NUMBER.fullmatch(argument):
            option, _, value = argument.partition("=")
            option, _, inner = option.replace("_", "-").partition(".")
            what = _refused_option(option)
        else:
            value = argument
        what = what or _refused_value(option, value)
        # `--x.key value`, and options that are keys of a JSON option themselves: `--spec-method value`
        key = inner or option.removeprefix("--").removeprefix("spec-")
        if what := what or (_refused_key(key, value) if inner or value else None):
            yield (index,), what


def refused_keys(value: Any, at: tuple[str | int, ...] = ()) -> Found:
    """The keys of a JSON value that a recipe may not give."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if what := _refused_key(str(key), inner):
                yield (*at, str(key)), what
            else:
                yield from refused_keys(inner, (*at, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from refused_keys(inner, (*at, index))


def _refused_option(option: str) -> str | None:
    if not option.startswith("--"):
        return None if _SHORT.fullmatch(option) else f"{option} is refused: write short options in full"
    plain = "--" + option[2:].removeprefix("no-")
    for refused in OPTIONS:
        for name in refused.names:
            # argparse accepts the beginning of a name for the whole.
            if plain == name or (name.startswith(plain) and plain not in _WHOLE):
                return refused.message(option)
    return None


def _refused_key(path: str, value: Any) -> str | None:
    """Why a key, or each of a dotted one, is refused, alone or with this value."""
    parts = [part.removesuffix("+").replace("-", "_") for part in path.split(".")]
    given = [*parts, f"{parts[-1]}: {value}" if isinstance(value, str) else ""]
    for refused in KEYS:
        for name in refused.names:
            if any(fnmatchcase(one, name) for one in given):
                return refused.message(name)
    return None


def _refused_value(option: str, value: str) -> str | None:
    allowed = next((VALUES[name] for name in VALUES if name.startswith(option) and len(option) > 2), None)
    if allowed is not None and value and value not in allowed:
        return f"{option} may be {', '.join(allowed)}: others run code, or do not load the checkpoint"
    if value.lstrip().startswith(("{", "[")):
        try:
            return next((what for _, what in refused_keys(json.loads(value))), None)
        except (ValueError, RecursionError):
            return None  # a chat template, say; what vLLM expects to be JSON, it refuses itself
    return None


def refused_mounts(mounts: Sequence[str]) -> Found:
    """The mounts of a container that a recipe may not ask for."""
    for index, mount in enumerate(mounts):
        if what := _refused_mount(mount):
            yield (index,), what


def refused_source(source: str, real: Callable[[str], str] = posixpath.normpath) -> str | None:
    """Why a folder or file of the host is not mounted; None where it may be.

    Args:
        real: what is at the path: only its text counts in a recipe, links as well on the host.
    """
    path = PurePosixPath("/" + real(source).lstrip("/"))
    if str(path) in WHOLE_FOLDERS.names:
        return WHOLE_FOLDERS.message(source)
    for refused in TREES:
        for tree in map(PurePosixPath, refused.names):
            if path.is_relative_to(tree) or tree.is_relative_to(path):
                return refused.message(source)
    if any(fnmatchcase(part, name) for part in path.parts for name in PARTS.names):
        return PARTS.message(source)
    return None


def _refused_mount(mount: str) -> str | None:
    source, *rest = mount.split(":")
    if len(rest) not in (1, 2) or not rest[0].startswith("/") or posixpath.normpath(rest[0]) == "/":
        return "a mount is `source:target` or `source:target:options`, its target an absolute path"
    if len(rest) == 2 and not set(rest[1].split(",")) <= set(MOUNT_OPTIONS):
        return f"options of a mount are {', '.join(MOUNT_OPTIONS)}"
    if not source.startswith("/"):
        return (
            None
            if re.fullmatch(r"\w[\w.-]*", source, re.ASCII)
            else "its source is an absolute path or a volume"
        )
    return refused_source(source)
