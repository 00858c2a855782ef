"""Compare JSON with the classes that docs/json.md is generated from."""

from __future__ import annotations

import enum
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from quantpipe.cli.json_fields import fields_of, is_object
from quantpipe.store.receipt import Receipt

PLAIN: Mapping[Any, tuple[type, ...]] = {
    str: (str,),
    Path: (str,),
    int: (int,),
    float: (int, float),
    bool: (bool,),
    type(None): (type(None),),
}


class Shapes:
    """Compares, and remembers which keys of which objects it has seen."""

    def __init__(self) -> None:
        self.seen: set[tuple[type, str]] = set()

    def problems(self, value: Any, kind: Any, where: str = "") -> list[str]:
        """Every place where the value has an undocumented key, lacks one, or has another type."""
        return list(self._problems(value, kind, where))

    def _problems(self, value: Any, kind: Any, where: str) -> Iterator[str]:
        origin, arguments = get_origin(kind), get_args(kind)
        if kind in (Any, object):
            return
        if is_object(kind):
            yield from self._object(value, kind, where)
        elif kind in PLAIN:
            if not isinstance(value, PLAIN[kind]) or (isinstance(value, bool) and kind is not bool):
                yield f"{where}: {value!r} is no {kind.__name__}"
        elif origin in (Union, types.UnionType):
            found = [self.problems(value, argument, where) for argument in arguments]
            if all(found):
                yield from min(found, key=len)
        elif origin is Literal:
            if value not in arguments:
                yield f"{where}: {value!r} is none of {arguments}"
        elif origin in (list, tuple):
            if not isinstance(value, list):
                yield f"{where}: {value!r} is no array"
                return
            for index, item in enumerate(value):
                yield from self._problems(item, arguments[0], f"{where}[{index}]")
        elif origin in (dict, Mapping):
            if not isinstance(value, dict):
                yield f"{where}: {value!r} is no object"
                return
            for key, item in value.items():
                yield from self._problems(item, arguments[1], f"{where}.{key}")
        elif isinstance(kind, type) and issubclass(kind, enum.Enum):
            if value not in [member.value for member in kind]:
                yield f"{where}: {value!r} is none of {list(kind)}"
        else:
            raise TypeError(f"{where}: how to compare with {kind}?")

    def _object(self, value: Any, kind: type, where: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no object"
            return
        fields = {
            field.name: field for field in fields_of(kind, value.get("stage") if kind is Receipt else None)
        }
        for key in value.keys() - fields.keys():
            yield f"{where}.{key} is not documented in {kind.__name__}"
        for name, field in fields.items():
            if name in value:
                self.seen.add((kind, name))
                yield from self._problems(value[name], field.kind, f"{where}.{name}")
            elif field.required:
                yield f"{where}.{name} is missing"
