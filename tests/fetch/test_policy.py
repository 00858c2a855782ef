from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from quantpipe.errors import RetryableError, UsageError
from quantpipe.fetch.hub import PassingFault
from quantpipe.fetch.policy import Policy
from quantpipe.settings import Settings


def test_waits_double_with_jitter_and_end_somewhere() -> None:
    policy = Policy(backoff_seconds=1.0)
    for attempt in range(1, 30):
        full = min(60.0, 2.0 ** (attempt - 1))
        assert full / 2 <= policy.wait_seconds(attempt) <= full
    assert len({policy.wait_seconds(5) for _ in range(20)}) > 10


def test_the_server_is_waited_for_but_not_for_ever() -> None:
    policy = Policy(backoff_seconds=0.01, longest_wait_seconds=300.0)
    assert 30 <= policy.wait_seconds(1, 30.0) <= 33
    assert policy.wait_seconds(1, 86400.0) == 300.0


def test_asks_until_it_is_answered() -> None:
    answers: Iterator[PassingFault | str] = iter([PassingFault("busy"), PassingFault("busy"), "yes"])
    reported: list[str] = []

    def question() -> str:
        answer = next(answers)
        if isinstance(answer, PassingFault):
            raise answer
        return answer

    policy = Policy(attempts=3, backoff_seconds=0.001)
    assert policy.ask(question, "hub", reported.append) == "yes"
    assert len(reported) == 2


def test_gives_up() -> None:
    def question() -> str:
        raise PassingFault("busy")

    started = time.monotonic()
    with pytest.raises(RetryableError, match="2 attempts"):
        Policy(attempts=2, backoff_seconds=0.001).ask(question, "hub", lambda text: None)
    assert time.monotonic() - started < 1


def test_the_settings_decide() -> None:
    policy = Policy.of(Settings(fetch_stall_seconds=500, fetch_attempts=3, fetch_jobs=16))
    assert (policy.stall_seconds, policy.attempts, policy.jobs) == (500.0, 3, 16)
    assert policy.overall_seconds >= 3 * 500
    assert Policy.of(Settings()) == Policy()


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_wrong_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTPIPE_FETCH_JOBS", value)
    with pytest.raises(UsageError) as caught:
        Settings()
    assert "QUANTPIPE_FETCH_JOBS" in (caught.value.where or "")
