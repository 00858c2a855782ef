from __future__ import annotations

from pathlib import Path

import pytest

from quantpipe.errors import RecipeError
from quantpipe.recipe.probes import Probe, load_probes


def test_the_probes_of_a_file_in_its_order(tmp_path: Path) -> None:
    (tmp_path / "probes.json").write_text('[{"prompt": "b", "chat": true}, {"prompt": "a"}]')
    assert load_probes(tmp_path / "probes.json") == (Probe(prompt="b", chat=True), Probe(prompt="a"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ('{"prompt": "x"}', "problem"),
        ('[{"prompt": ""}]', "problem"),
        ('[{"promt": "x"}]', "problem"),
    ],
)
def test_a_wrong_probes_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "probes.json").write_text(text)
    with pytest.raises(RecipeError, match=said) as caught:
        load_probes(tmp_path / "probes.json")
    assert caught.value.where == str(tmp_path / "probes.json")


def test_a_misspelt_key_of_a_probes_file_is_compared_with_those_of_a_probe(tmp_path: Path) -> None:
    (tmp_path / "probes.json").write_text('[{"prompt": "x", "max_token": 3}]')
    with pytest.raises(RecipeError) as caught:
        load_probes(tmp_path / "probes.json")
    assert caught.value.details == ("probes.json: 0.max_token: unknown key, did you mean `max_tokens`?",)
