"""The JSON schema of a recipe file, for editors: keys, types, defaults, and what each key means.

The meanings are the sections' docstrings, their only source.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from quantpipe.recipe.model import Recipe
from quantpipe.recipe.section import Section

SCHEMA_ID = "urn:quantpipe:recipe"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"  # of pydantic's schemas
_ATTRIBUTES = "Attributes:\n"


def recipe_schema() -> dict[str, Any]:
    """The schema, as JSON values."""
    schema = Recipe.model_json_schema()
    sections = {section.__name__: section for section in Section.__subclasses__()}
    for name, part in (("Recipe", schema), *schema["$defs"].items()):
        _describe(part, sections[name])
    return {"$schema": _DIALECT, "$id": SCHEMA_ID, **schema, "title": "quantpipe recipe"}


def meanings(section: type[Section]) -> dict[str, str]:
    """What each key of a section means: the `Attributes` of its docstring."""
    listed = textwrap.dedent(_documentation(section).partition(_ATTRIBUTES)[2])
    entries = re.findall(r"^(\w+): (.+(?:\n +.+)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _describe(part: dict[str, Any], section: type[Section]) -> None:
    part["description"] = " ".join(_documentation(section).partition(_ATTRIBUTES)[0].split())
    for name, text in meanings(section).items():
        part["properties"][name]["description"] = text


def _documentation(section: type[Section]) -> str:
    return inspect.getdoc(section) or ""
