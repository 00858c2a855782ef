from __future__ import annotations

import re

import pytest

from quantpipe import errors
from quantpipe.errors import QuantpipeError, RecipeError

KINDS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
TREE = [kind for kind in KINDS if issubclass(kind, QuantpipeError)]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_the_drawing_at_the_top_of_the_module_is_true(kind: type[QuantpipeError]) -> None:
    drawn = re.search(rf"{kind.__name__}\s+(\d+)\s", errors.__doc__ or "")
    assert drawn is not None
    assert int(drawn[1]) == kind.exit_code


def test_it_is_one_tree() -> None:
    assert TREE == KINDS


def test_the_codes_are_the_documented_ones() -> None:
    assert {kind.exit_code for kind in TREE} == {1, 2, 3, 4, 5, 11, 75, 130}


def test_an_error_says_what_where_and_what_next() -> None:
    error = RecipeError("a key is missing", where="r.yaml:3", hint="add it", details=["one", "two"])
    assert str(error) == "a key is missing (r.yaml:3)"
    assert str(RecipeError("alone")) == "alone"
    assert error.to_json() == {
        "error": "RecipeError",
        "exit_code": 2,
        "what": "a key is missing",
        "where": "r.yaml:3",
        "hint": "add it",
        "details": ["one", "two"],
    }
