from __future__ import annotations

from collections.abc import Callable

import pytest

from quantpipe.errors import SmokeError
from quantpipe.recipe.probes import Probe
from quantpipe.smoke.garbage import garbage
from quantpipe.smoke.probes import Reply, ask, require_matches
from quantpipe.smoke.session import Session

ONE = Probe(prompt="One", max_tokens=4)


def answer(matches: bool | None, prompt: str = "p") -> Reply:
    return Reply(prompt, None if matches is None else "expected", "got", matches, 0.1)


@pytest.mark.parametrize(
    ("answers", "least"),
    [
        ([], 1.0),
        ([None, None], 1.0),
        ([True, True], 1.0),
        ([True, False], 0.5),
        ([True, False, None], 0.5),
        ([False], 0.0),
    ],
)
def test_enough_matches(answers: list[bool | None], least: float) -> None:
    require_matches([answer(matches) for matches in answers], least)


@pytest.mark.parametrize(
    ("answers", "least", "said"),
    [([False], 0.01, "1 of 1"), ([True, False], 1.0, "1 of 2"), ([True, False, False, None], 0.5, "2 of 3")],
)
def test_too_few_matches_name_each_mismatch(answers: list[bool | None], least: float, said: str) -> None:
    given = [answer(matches, f"prompt {number}") for number, matches in enumerate(answers)]
    with pytest.raises(SmokeError, match=said) as caught:
        require_matches(given, least)
    assert len(caught.value.details) == answers.count(False)
    assert "expected 'expected', got 'got'" in caught.value.details[0]
    assert "prompt" in caught.value.details[0]


def test_long_texts_are_shortened_in_the_error() -> None:
    long = Reply("p" * 5000, "e" * 5000, "g" * 5000, False, 0.1)
    with pytest.raises(SmokeError) as caught:
        require_matches([long], 1.0)
    assert len(caught.value.details[0]) < 500


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("half \ufffd of a character", "not valid text"),
        ("!" * 16, "one character over and over"),
        ("! " * 16, "one word over and over"),
        ("ab" * 20, "one character over and over"),
        ("the the the the the the", "one word over and over"),
    ],
)
def test_garbage(text: str, fault: str) -> None:
    assert garbage(text) == fault


@pytest.mark.parametrize(
    "text",
    [
        " Paris.",
        "42",
        "no",
        "cut at the end \ufffd",
        "the the the cat",
        "!!!!!!!!",
        "量子计算是一种利用量子力学原理的计算方式",
        "0000",
        "1, 2, 3, 4, 5, 6",
    ],
)
def test_what_may_be_an_answer(text: str) -> None:
    assert garbage(text) is None


@pytest.mark.parametrize(
    ("prompt", "text", "fault"),
    [
        ("The sea is", " синее море и белый песок", "in another script than the prompt"),
        ("The sea is", " 深蓝色的，而且非常非常美丽", "in another script than the prompt"),
        (
            "The sea is",
            " blue, blue water and more of it, ии हहा ทะเ بحر",
            "in many scripts at once",
        ),
        ("The sea is", " blue, and 海 means sea", None),
        ("海是什么颜色？", " 海是蓝色的，天空也是蓝色的。", None),
        ("海是什么颜色？", " The sea is blue.", None),
        ("Море", " синее и очень холодное", None),
        ("The sea is", " 青い", None),  # too short to tell
    ],
)
def test_the_script_of_an_answer(prompt: str, text: str, fault: str | None) -> None:
    assert garbage(text, prompt) == fault
    assert garbage(text) is None


@pytest.mark.parametrize(
    ("text", "cut", "fault"),
    [
        ("It is blue. " + "I think so. " * 8, True, "a loop that does not stop"),
        ("It is blue. " + "I think so. " * 8, False, None),
        ("It is blue. " + "I think so. " * 2, True, None),
        (" 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37", True, None),
        ("a, b, a, b, a", True, None),
        ("x = 1\n" * 6, True, "a loop that does not stop"),
    ],
)
def test_an_answer_that_does_not_stop(text: str, cut: bool, fault: str | None) -> None:
    assert garbage(text, cut=cut) == fault


# -- one probe ---------------------------------------------------------------------------------------


def test_an_answer_has_to_stop_where_the_recipe_says_so(server: Callable[[str], Session]) -> None:
    probe = ONE.model_copy(update={"must_stop": True})
    assert ask(server("ready"), probe).finish_reason == "stop"
    with pytest.raises(SmokeError, match="not complete after 4 tokens"):
        ask(server("long"), probe)


def test_any_script_may_be_allowed(server: Callable[[str], Session]) -> None:
    session = server("script")
    with pytest.raises(SmokeError, match="another script"):
        ask(session, ONE)
    assert ask(session, ONE.model_copy(update={"any_script": True})).fault is None
