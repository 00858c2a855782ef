"""Read recipe files: YAML with line numbers, all problems at once, suggestions for misspelt keys."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from quantpipe.errors import RecipeError
from quantpipe.recipe.model import Probe, Recipe

Location = tuple[str | int, ...]
Problem = tuple[int, str]
"""The line, 0 where none is known, and what is wrong there."""

_FILE_KEYS: tuple[Location, ...] = (
    ("quantize", "calibration", "dataset"),
    ("quantize", "anti_outlier", "dataset"),
    ("smoke", "probes_file"),
)


def load(path: Path) -> Recipe:
    """Read, check and resolve a recipe, its datasets and its probes included.

    Relative paths in it are relative to its folder.

    Raises:
        RecipeError: with all problems, each with its line and its key.
    """
    text = _read(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = _line_numbers(node)
        value = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise RecipeError("not valid YAML", where=_yaml_place(path, error), hint=_yaml_hint(error)) from error
    except (ValueError, TypeError, RecursionError) as error:
        # Of a date that is none, of a list as a key, of an anchor that contains itself.
        raise RecipeError(f"not valid YAML: {error}", where=str(path), hint="correct the syntax") from error
    if not isinstance(value, dict):
        raise RecipeError(
            "a recipe is a mapping of sections",
            where=str(path),
            hint="`quantpipe recipe show` prints a shipped one to start from",
        )
    missing = _missing_files(path, value, lines)
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        raise _invalid(path, [*_problems(path, error.errors(), lines, Recipe), *missing]) from None
    if missing:
        raise _invalid(path, missing)
    recipe = _resolved(recipe, path.parent.absolute())
    recipe.digest()  # reads the datasets: what is wrong with them is to be heard now and not in an hour
    return _with_probes(recipe)


def load_probes(path: Path) -> tuple[Probe, ...]:
    """Read a probes file: a JSON list of probe objects.

    Raises:
        RecipeError: missing, not JSON, or not such a list.
    """
    try:
        value = json.loads(_read(path))
        return TypeAdapter(tuple[Probe, ...]).validate_python(value)
    except ValidationError as error:
        raise _invalid(path, _problems(path, error.errors(), {}, Probe)) from None
    except ValueError as error:
        raise RecipeError(f"not valid JSON: {error}", where=str(path), hint="correct the file") from error


def _with_probes(recipe: Recipe) -> Recipe:
    if recipe.smoke.probes_file is None:
        return recipe
    probes = (*recipe.smoke.probes, *load_probes(recipe.smoke.probes_file))
    return recipe.model_copy(update={"smoke": recipe.smoke.model_copy(update={"probes": probes})})


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        near = _similar_files(path)
        hint = f"did you mean {near}?" if near else "`quantpipe recipe list` lists the shipped ones"
        raise RecipeError("no such file", where=str(path), hint=hint) from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"not UTF-8 at byte {error.start}", where=str(path), hint="save it as UTF-8"
        ) from error
    except OSError as error:
        raise RecipeError(
            f"cannot be read: {error.strerror}", where=str(path), hint="check the path and its permissions"
        ) from error


def _similar_files(path: Path) -> str | None:
    if not path.parent.is_dir():
        return None
    names = [entry.name for entry in path.parent.iterdir()]
    near = difflib.get_close_matches(path.name, names, n=1)
    return str(path.parent / near[0]) if near else None


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error instead of the last one silently winning."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _yaml_place(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return str(path) if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"


def _yaml_hint(error: yaml.YAMLError) -> str:
    said = getattr(error, "problem", None) or getattr(error, "reason", None)
    return str(said or "correct the syntax there")


def _line_numbers(node: yaml.Node | None, prefix: Location = ()) -> dict[Location, int]:
    """The 1-based line of every key and item of a YAML document, by its path."""
    if node is None:
        return {}
    lines = {prefix: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*prefix, key.value)
            lines |= _line_numbers(value, below)
            lines[below] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines |= _line_numbers(value, (*prefix, index))
    return lines


def _invalid(path: Path, found: Sequence[Problem]) -> RecipeError:
    count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    return RecipeError(
        f"the file has {count}",
        where=str(path),
        hint="correct them all and run `quantpipe recipe check`; relative paths begin at the recipe's folder",
        details=[text for _, text in sorted(found)],
    )


def _problems(
    path: Path, errors: Sequence[ErrorDetails], lines: dict[Location, int], model: type[BaseModel]
) -> list[Problem]:
    return [_problem(path, error["loc"], lines, _message(error, model)) for error in errors]


def _problem(path: Path, location: Location, lines: dict[Location, int], what: str) -> Problem:
    line = _nearest_line(location, lines)
    key = ".".join(str(part) for part in location) or "(the whole file)"
    place = f"{path.name}:{line}" if line else path.name
    return line, f"{place}: {key}: {what}"


def _nearest_line(location: Location, lines: dict[Location, int]) -> int:
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 0)


def _message(error: ErrorDetails, model: type[BaseModel]) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _keys_at(error["loc"][:-1], model), n=1)
        return "unknown key" + (f", did you mean `{near[0]}`?" if near else "")
    if kind == "missing":
        return "this key is required"
    text = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    if isinstance(given, str | int | float | bool) and repr(given) not in text:
        text += f" (it is {given!r})"
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


def _absolute(folder: Path, path: str | Path) -> Path:
    """Relative paths begin at the recipe's folder. Lexically: a snapshot that is a link stays that link."""
    return Path(os.path.normpath(folder / Path(path).expanduser()))


def _resolved(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with absolute paths."""
    quantize = recipe.quantize
    dataset = _absolute(folder, quantize.calibration.dataset)
    changes: dict[str, Any] = {"calibration": quantize.calibration.model_copy(update={"dataset": dataset})}
    if quantize.anti_outlier is not None:
        dataset = _absolute(folder, quantize.anti_outlier.dataset)
        changes["anti_outlier"] = quantize.anti_outlier.model_copy(update={"dataset": dataset})
    update: dict[str, Any] = {"quantize": quantize.model_copy(update=changes)}
    if recipe.source.hub == "local":
        repo = str(_absolute(folder, recipe.source.repo))
        update["source"] = recipe.source.model_copy(update={"repo": repo})
    if recipe.smoke.probes_file is not None:
        probes_file = _absolute(folder, recipe.smoke.probes_file)
        update["smoke"] = recipe.smoke.model_copy(update={"probes_file": probes_file})
    return recipe.model_copy(update=update)


def _missing_files(path: Path, value: dict[Any, Any], lines: dict[Location, int]) -> list[Problem]:
    """Every file or folder that the recipe names and that is not there, whatever else is wrong with it."""
    folder = path.parent.absolute()
    named = [(key, text) for key in _FILE_KEYS if (text := _text_at(value, key)) is not None]
    missing = [(key, text) for key, text in named if not _absolute(folder, text).is_file()]
    repo = _text_at(value, ("source", "repo"))
    if _text_at(value, ("source", "hub")) == "local" and repo and not _absolute(folder, repo).is_dir():
        missing.append((("source", "repo"), repo))
    return [
        _problem(path, key, lines, f"no such file or folder: {_absolute(folder, text)}")
        for key, text in missing
    ]


def _text_at(value: Any, location: Location) -> str | None:
    for part in location:
        value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
