"""Reference answers: log-probabilities to compare with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpipe.errors import SmokeError
from quantpipe.smoke.reference import compare, load_reference
from quantpipe.smoke.session import Session


def test_reference_answers(server: Callable[[str], Session], tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    assert load_reference(path) == []
    path.write_text(json.dumps([{"prompt": "One", "token_logprobs": [None, -0.25, -0.5]}]))
    session = server("ready")
    check = compare(session, load_reference(path), 0.2)
    assert check.answer == {"tokens": 2, "mean_difference": 0.125}
    with pytest.raises(SmokeError, match=r"differ from the reference by 0\.125"):
        compare(session, load_reference(path), 0.1)
    path.write_text(json.dumps([{"prompt": "One", "token_logprobs": [None] + [-0.25] * 5}]))
    with pytest.raises(SmokeError, match="has 3 tokens, but 6"):
        compare(session, load_reference(path), 1)


def test_a_number_that_is_none_is_no_agreement(server: Callable[[str], Session]) -> None:
    reference = [{"prompt": "One", "token_logprobs": [None, -0.25, -0.5]}]
    with pytest.raises(SmokeError, match="by nan"):
        compare(server("nan"), reference, 9)


@pytest.mark.parametrize("text", ["{", "3", '[{"prompt": 3, "token_logprobs": []}]', '[{"prompt": "x"}]'])
def test_a_reference_of_another_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "reference.json").write_text(text)
    with pytest.raises(SmokeError, match="not reference answers"):
        load_reference(tmp_path / "reference.json")
