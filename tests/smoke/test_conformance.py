"""What any server has to do, checked on a fake server that does it, or does not."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

import pytest

from quantpipe.errors import SmokeError
from quantpipe.recipe.probes import Probe
from quantpipe.smoke import conformance
from quantpipe.smoke.session import Session

ONE = Probe(prompt="One", max_tokens=4)
CHAT = Probe(prompt="Two", max_tokens=4, chat=True)


@pytest.mark.parametrize("probe", [ONE, CHAT])
def test_a_sound_server_repeats_itself_and_streams(server: Callable[[str], Session], probe: Probe) -> None:
    check = conformance.repeats(server("ready"), probe, "name")
    assert check.answer == {"text": f" after {probe.prompt} in 4", "pieces": 2}
    assert check.request["max_tokens"] == 4
    assert check.seconds > 0


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("fickle", "two answers: ' answer 1' and ' answer 2'"),
        ("lossy", "streamed, the answer is"),
        ("unended", r"no valid answer: .*without \[DONE\]"),
    ],
)
@pytest.mark.parametrize("probe", [ONE, CHAT])
def test_a_server_that_does_not(server: Callable[[str], Session], mode: str, said: str, probe: Probe) -> None:
    with pytest.raises(SmokeError, match=said) as caught:
        conformance.repeats(server(mode), probe, "name")
    assert caught.value.hint


def test_a_batch_is_answered_all_of_it(server: Callable[[str], Session]) -> None:
    check = conformance.batch(server("ready"), (ONE, CHAT), 9)
    assert check.answer == [f" after {'One' if n % 2 == 0 else 'Two'} in 16" for n in range(9)]


def test_a_batch_of_which_some_fail(server: Callable[[str], Session]) -> None:
    """A server that takes one request at a time: asked one by one it would pass."""
    with pytest.raises(SmokeError, match=r"of 6 concurrent requests failed: HTTP 429") as caught:
        conformance.batch(server("crowded"), (ONE,), 6)
    assert 1 <= len(caught.value.details) < 6


def test_ctrl_c_during_a_batch_does_not_wait_for_its_answers(
    server: Callable[[str], Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        def put(self, item: object) -> None: ...

        def get(self) -> object:
            raise KeyboardInterrupt

    session = server("slow")
    monkeypatch.setattr(queue, "SimpleQueue", Interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        conformance.batch(session, (ONE,), 2)
    assert time.monotonic() - began < 5


def test_finite_logprobs(server: Callable[[str], Session]) -> None:
    assert conformance.finite(server("ready"), ONE).answer["token_logprobs"] == [-0.25] * 3


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("nan", "not finite"),
        ("floor", "not finite"),
        ("positive", "not finite"),
        ("no-logprobs", "no log-prob"),
    ],
)
def test_logprobs_that_are_none(server: Callable[[str], Session], mode: str, said: str) -> None:
    with pytest.raises(SmokeError, match=said):
        conformance.finite(server(mode), ONE)


def test_samples() -> None:
    text, chat = conformance.samples((CHAT, ONE))
    assert (text.prompt, text.chat, chat.prompt, chat.chat) == ("One", False, "Two", True)
    text, chat = conformance.samples(())
    assert text.prompt == chat.prompt == conformance.DEFAULT_PROMPT and chat.chat
