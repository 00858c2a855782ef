"""Read recipe files: YAML with line numbers, all problems at once, suggestions for misspelt keys."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from quantpipe.errors import RecipeError
from quantpipe.recipe import Probe, Recipe

Location = tuple[str | int, ...]


def load(path: Path) -> Recipe:
    """Read, check and resolve a recipe, its datasets and its probes included.

    Relative paths in it are relative to its folder.

    Raises:
        RecipeError: with all problems, each with its line and its key.
    """
    text = _read(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise RecipeError("not valid YAML", where=_yaml_place(path, error), hint=_yaml_hint(error)) from error
    if not isinstance(value, dict):
        raise RecipeError(
            "a recipe is a mapping of sections",
            where=str(path),
            hint="`quantpipe recipe show` prints a shipped one to start from",
        )
    lines = _line_numbers(node)
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        raise _invalid(path, error.errors(), lines) from None
    recipe = _resolved(recipe, path.parent.absolute())
    _check_files(path, recipe, lines)
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
        raise _invalid(path, error.errors(), {}) from None
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
    return str(getattr(error, "problem", None) or "correct the syntax there")


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


def _invalid(path: Path, errors: Sequence[ErrorDetails], lines: dict[Location, int]) -> RecipeError:
    found = [_problem(path, error, lines) for error in errors]
    count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    return RecipeError(
        f"the file has {count}",
        where=str(path),
        hint="correct them all and run `quantpipe recipe check` on it",
        details=[text for _, text in sorted(found)],
    )


def _problem(path: Path, error: ErrorDetails, lines: dict[Location, int]) -> tuple[int, str]:
    location = error["loc"]
    line = _nearest_line(location, lines)
    key = ".".join(str(part) for part in location) or "(the whole file)"
    place = f"{path.name}:{line}" if line else path.name
    return line, f"{place}: {key}: {_message(error)}"


def _nearest_line(location: Location, lines: dict[Location, int]) -> int:
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 0)


def _message(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _keys_at(error["loc"][:-1]), n=1)
        return "unknown key" + (f", did you mean `{near[0]}`?" if near else "")
    if kind == "missing":
        return "this key is required"
    text = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    if isinstance(given, str | int | float | bool) and repr(given) not in text:
        text += f" (it is {given!r})"
    return text


def _keys_at(location: Location) -> list[str]:
    """The keys that the section at `location` knows."""
    model: type[BaseModel] = Recipe
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


def _resolved(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with absolute paths."""

    def absolute(path: Path) -> Path:
        # Lexically: a snapshot that is a link must stay the link that the user named.
        return Path(_normal(folder / path.expanduser()))

    quantize = recipe.quantize
    changes: dict[str, Any] = {
        "calibration": quantize.calibration.model_copy(
            update={"dataset": absolute(quantize.calibration.dataset)}
        )
    }
    if quantize.anti_outlier is not None:
        dataset = absolute(quantize.anti_outlier.dataset)
        changes["anti_outlier"] = quantize.anti_outlier.model_copy(update={"dataset": dataset})
    update: dict[str, Any] = {"quantize": quantize.model_copy(update=changes)}
    if recipe.source.hub == "local":
        repo = str(absolute(Path(recipe.source.repo)))
        update["source"] = recipe.source.model_copy(update={"repo": repo})
    if recipe.smoke.probes_file is not None:
        probes_file = absolute(recipe.smoke.probes_file)
        update["smoke"] = recipe.smoke.model_copy(update={"probes_file": probes_file})
    return recipe.model_copy(update=update)


def _normal(path: Path) -> str:
    import os.path

    return os.path.normpath(path)


def _check_files(path: Path, recipe: Recipe, lines: dict[Location, int]) -> None:
    """Report every file or folder that the recipe names and that is not there."""
    named: list[tuple[Location, Path]] = [
        (("quantize", "calibration", "dataset"), recipe.quantize.calibration.dataset)
    ]
    if recipe.quantize.anti_outlier is not None:
        named.append((("quantize", "anti_outlier", "dataset"), recipe.quantize.anti_outlier.dataset))
    if recipe.smoke.probes_file is not None:
        named.append((("smoke", "probes_file"), recipe.smoke.probes_file))
    missing = [(key, file) for key, file in named if not file.is_file()]
    if recipe.source.hub == "local" and not Path(recipe.source.repo).is_dir():
        missing.append((("source", "repo"), Path(recipe.source.repo)))
    if not missing:
        return
    found = sorted((_nearest_line(key, lines), ".".join(map(str, key)), file) for key, file in missing)
    raise RecipeError(
        "the recipe names files that are not there",
        where=str(path),
        hint="relative paths are relative to the recipe's folder: correct the keys or bring the files",
        details=[f"{path.name}:{line}: {key}: no such file or folder: {file}" for line, key, file in found],
    )
