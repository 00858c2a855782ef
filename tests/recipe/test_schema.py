from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from helpers.commands import quantpipe

from quantpipe.recipe.schema import meanings, recipe_schema
from quantpipe.recipe.section import Section
from quantpipe.recipe.shipped import recipes

SECTIONS = Section.__subclasses__()


def valid(value: Any) -> bool:
    jsonschema = pytest.importorskip("jsonschema")
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_of_a_section_is_explained(section: type[Section]) -> None:
    assert set(meanings(section)) == set(section.model_fields)


def test_a_meaning_of_several_lines_becomes_one_text() -> None:
    class Example(Section):
        """A section.

        Attributes:
            first: begins here
                and ends: here.
            second: is short.
        """

    assert meanings(Example) == {"first": "begins here and ends: here.", "second": "is short."}


def test_the_schema_says_what_it_is_and_what_each_key_means() -> None:
    schema = recipe_schema()
    assert schema["$id"] == "urn:quantpipe:recipe"
    assert schema["properties"]["name"]["description"] == "names the checkpoint's folder in the store."
    probes = schema["$defs"]["Smoke"]["properties"]["probes_file"]
    assert "builtin:" in probes["description"]
    assert "Attributes" not in str(schema)


@pytest.mark.parametrize("name", recipes())
def test_the_shipped_recipes_fit(name: str) -> None:
    assert valid(yaml.safe_load(recipes()[name].read_text("utf-8")))


@pytest.mark.parametrize(
    ("section", "changes", "fits"),
    [
        ("smoke", {"bench": True}, True),
        ("smoke", {"bench": {"num_prompts": 3}}, True),
        ("smoke", {"probes_file": None}, True),
        ("smoke", {"launcher": "gpu"}, False),
        ("quantize", {"rotat": True}, False),
        ("quantize", {"calibration": {"dataset": 3}}, False),
        ("publish", {"keep": 1}, False),
    ],
)
def test_the_schema_takes_what_loading_takes(section: str, changes: dict[str, Any], fits: bool) -> None:
    value = copy.deepcopy(yaml.safe_load(recipes()["tiny-qwen3-moe-w8a8-rot"].read_text("utf-8")))
    value[section].update(changes)
    assert valid(value) == fits


def test_the_command_prints_the_schema() -> None:
    assert quantpipe("recipe", "schema").json() == recipe_schema()
    assert quantpipe("recipe", "schema", "--json").json() == recipe_schema()
