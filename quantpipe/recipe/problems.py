"""What is wrong with a file, all at once: every problem with its line, its key and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from quantpipe.errors import RecipeError
from quantpipe.recipe.files import WRONG_FILE
from quantpipe.recipe.guard import REFUSED

Location = tuple[str | int, ...]
Lines = Mapping[Location, int]
"""The 1-based line of each key and item."""


def refusal(path: Path, errors: Sequence[ErrorDetails], lines: Lines, model: type[BaseModel]) -> RecipeError:
    """The one error for all that validation found.

    If the only problem is one file that the recipe names, the error is that file's own.

    Args:
        path: the file that was validated.
        lines: empty where no line is known.
        model: what the file had to be, for suggestions.
    """
    files = [error["ctx"]["error"] for error in errors if error["type"] == WRONG_FILE]
    if len(errors) == len(files) == 1 and isinstance(files[0], RecipeError) and files[0].where:
        return files[0]
    found = [
        (line, f"{place}: {text}")
        for error in errors
        for line, place in [_place(path, error["loc"], lines)]
        for text in _messages(error, model)
    ]
    count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    return RecipeError(
        f"the file has {count}",
        where=str(path),
        hint="fix them all, then run `quantpipe recipe check`; relative paths start at the recipe's folder",
        details=[text for _, text in sorted(found)],
    )


def _place(path: Path, location: Location, lines: Lines) -> tuple[int, str]:
    """The line, 0 where none is known, and file, line and key as text."""
    line = _nearest_line(location, lines)
    key = ".".join(str(part) for part in location) or "(the whole file)"
    return line, f"{path.name}:{line}: {key}" if line else f"{path.name}: {key}"


def _nearest_line(location: Location, lines: Lines) -> int:
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 0)


def _messages(error: ErrorDetails, model: type[BaseModel]) -> Iterator[str]:
    kind = error["type"]
    if kind == WRONG_FILE:
        yield from _messages_of_file(error["ctx"]["error"])
    elif kind == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _keys_at(error["loc"][:-1], model), n=1)
        yield "unknown key" + (f", did you mean `{near[0]}`?" if near else "")
    elif kind == "missing":
        yield "this key is required"
    elif kind in ("missing_file", REFUSED):
        yield error["msg"]
    else:
        yield _with_input(error["msg"].removeprefix("Value error, "), error.get("input"))


def _messages_of_file(error: RecipeError) -> Iterator[str]:
    """What is wrong with a file that the recipe names, each with the file's name."""
    if error.where is None:
        yield f"{error.what}; {error.hint}" if error.hint else error.what
        return
    name = Path(error.where.partition(", line ")[0]).name
    for detail in error.details or (error.what,):
        yield detail if detail.startswith(name) else f"{name}: {detail}"


def _with_input(text: str, given: object) -> str:
    if isinstance(given, str | int | float | bool) and repr(given) not in text:
        return f"{text} (got {given!r})"
    return text


def _keys_at(location: Location, model: type[BaseModel]) -> list[str]:
    """The keys that the section at `location` knows, from `model` on."""
    for part in location:
        field = model.model_fields.get(str(part)) if isinstance(part, str) else None
        inner = _model_in(field.annotation) if field is not None else None
        if inner is not None:
            model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_model_in(argument) for argument in get_args(annotation))
    return next((model for model in inner if model is not None), None)
