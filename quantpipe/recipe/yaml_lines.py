"""YAML with the line of every key, in which a key given twice is an error, and whose size is bounded.

A recipe comes with a pull request or from a colleague: `recipe check` on it has to end within a moment,
whatever it holds. Anchors and aliases work; what they stand for counts as often as it is used, so that ten
lines cannot stand for a billion values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from quantpipe.errors import RecipeError
from quantpipe.recipe.problems import Location

MAX_VALUES = 10_000
"""Keys, values and lists of a document, those behind aliases included; a long recipe has 200."""

MAX_DEPTH = 50
"""Mappings and lists within each other; a recipe has six."""

_MAX_INTEGER = 1 << 63
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_PREFIX = "tag:yaml.org,2002:"
_NOT_IN_RECIPES = frozenset(_PREFIX + name for name in ("binary", "omap", "pairs", "set", "value"))


def parse(text: str, path: Path) -> tuple[object, dict[Location, int]]:
    """The value of a document, and the 1-based line of each of its keys and items.

    Args:
        path: named in errors.

    Raises:
        RecipeError: not valid YAML, more than one document, a key that is given twice, or too many values.
    """
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        _measure(node, {})
        lines = dict(_line_numbers(node))
        return loader.construct_document(node), lines
    except yaml.YAMLError as error:
        raise RecipeError("not valid YAML", where=_place(path, error), hint=_hint(error)) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # PyYAML's constructors: of a date that is none, of a list as a key, of `!!int ""`.
        raise RecipeError(f"not valid YAML: {error}", where=str(path), hint="fix the syntax") from error


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error instead of the last one silently winning."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node; stops at the limits, before the rest of the document is read."""
        self._values += 1
        self._depth += 1
        if self._values > MAX_VALUES or self._depth > MAX_DEPTH:
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise _refused(_too_many() if self._values > MAX_VALUES else _too_deep(), event)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _mapping(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == f"{_PREFIX}merge":  # `<<: *anchor`
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _integer(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    value: int = loader.construct_yaml_int(node)
    if not -_MAX_INTEGER <= value < _MAX_INTEGER:
        raise _refused("a number that is too large", node)
    return value


def _float(loader: _StrictLoader, node: yaml.ScalarNode) -> float:
    value: float = loader.construct_yaml_float(node)
    if not math.isfinite(value):
        raise _refused(f"{node.value} is not a finite number", node)
    return value


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.add_constructor(f"{_PREFIX}int", _integer)
_StrictLoader.add_constructor(f"{_PREFIX}float", _float)


def _place(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return str(path) if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"


def _hint(error: yaml.YAMLError) -> str:
    said = getattr(error, "problem", None) or getattr(error, "reason", None)
    return str(said or "fix the syntax there")


def _refused(why: str, at: Any) -> yaml.YAMLError:
    """The error for a node or an event."""
    return yaml.constructor.ConstructorError(None, None, why, at.start_mark)


def _too_many() -> str:
    return f"more than {MAX_VALUES:,} values, counting what aliases stand for"


def _too_deep() -> str:
    return f"more than {MAX_DEPTH} levels"


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values a node stands for, and how many levels; each node is looked at once.

    An alias names a node that is earlier in the document: it is in `known`, unless it contains itself.

    Raises:
        yaml.YAMLError: too many, too deep, or a value that no recipe can have.
    """
    if id(node) in known:
        measured = known[id(node)]
        if measured is None:
            raise _refused("an anchor that contains itself", node)
        return measured
    known[id(node)] = None
    count, height = 1, 0
    if node.tag in _NOT_IN_RECIPES:
        raise _refused(f"a recipe has no !!{node.tag.removeprefix(_PREFIX)}", node)
    if isinstance(node, yaml.ScalarNode) and (found := _UNPRINTABLE.search(node.value)):
        raise _refused(f"control character U+{ord(found[0]):04X}", node)
    for inner in _inner(node):
        inner_count, inner_height = _measure(inner, known)
        count, height = count + inner_count, max(height, inner_height)
        if count > MAX_VALUES:
            raise _refused(_too_many(), inner)
    if height + 1 > MAX_DEPTH:
        raise _refused(_too_deep(), node)
    known[id(node)] = count, height + 1
    return count, height + 1


def _inner(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _line_numbers(node: yaml.Node, prefix: Location = ()) -> Iterator[tuple[Location, int]]:
    """The 1-based line of every key and item of a YAML document, by its path."""
    yield prefix, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*prefix, str(key.value))
            yield from _line_numbers(value, below)
            yield below, key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _line_numbers(value, (*prefix, index))
