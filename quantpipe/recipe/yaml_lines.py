"""YAML with the line of every key, in which a key given twice is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from quantpipe.errors import RecipeError
from quantpipe.recipe.problems import Location


def parse(text: str, path: Path) -> tuple[object, dict[Location, int]]:
    """The value of a document, and the 1-based line of each of its keys and items.

    Args:
        path: named in errors.

    Raises:
        RecipeError: not valid YAML, more than one document, or a key that is given twice.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return yaml.load(text, Loader=_StrictLoader), _line_numbers(node)
    except yaml.YAMLError as error:
        raise RecipeError("not valid YAML", where=_place(path, error), hint=_hint(error)) from error
    except (ValueError, TypeError, RecursionError) as error:
        # Of a date that is none, of a list as a key, of an anchor that contains itself.
        raise RecipeError(f"not valid YAML: {error}", where=str(path), hint="fix the syntax") from error


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error instead of the last one silently winning."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _place(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return str(path) if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"


def _hint(error: yaml.YAMLError) -> str:
    said = getattr(error, "problem", None) or getattr(error, "reason", None)
    return str(said or "fix the syntax there")


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
