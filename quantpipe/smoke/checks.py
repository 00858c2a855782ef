"""What any server has to do, whatever the model says: stream, repeat itself, answer many, finite numbers."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quantpipe.errors import SmokeError
from quantpipe.recipe.model import Probe
from quantpipe.smoke.client import Client, short
from quantpipe.smoke.probes import body_of, text_of

DEFAULT_PROMPT = "The future of AI is"
_TOKENS = 16
_FLOOR = -9000.0
"""vLLM writes -9999 for what is not a number or minus infinity."""

_WRONG = "the checkpoint computes something wrong: `quantpipe verify --deep` looks for the cause"


@dataclass(frozen=True)
class Check:
    """A check that held.

    Attributes:
        name: which.
        request: what was asked; None where it was not.
        answer: what came.
        seconds: for all of it.
        skipped: why it was not made; None where it was.
    """

    name: str
    request: Any = None
    answer: Any = None
    seconds: float = 0.0
    skipped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The check as the receipt keeps it."""
        return asdict(self)


def samples(probes: Sequence[Probe]) -> tuple[Probe, Probe]:
    """A short completion and a short chat to check with: the recipe's first ones, or one of our own."""
    default = Probe(prompt=DEFAULT_PROMPT)
    text = next((probe for probe in probes if not probe.chat), default)
    chat = next((probe for probe in probes if probe.chat), default)
    short_one = {"max_tokens": _TOKENS}
    return text.model_copy(update=short_one), chat.model_copy(update={**short_one, "chat": True})


def repeats(client: Client, model: str, probe: Probe, name: str) -> Check:
    """The same greedy question twice, and a third time as a stream: one text.

    Raises:
        SmokeError: the texts differ, or an answer fails.
    """
    path, body = body_of(probe, model)
    began = time.monotonic()
    first, second = (text_of(client.json(path, body), client.url + path)[0] for _ in range(2))
    if first != second:
        raise SmokeError(
            f"the same greedy question got two answers: {short(first)} and {short(second)}",
            where=client.url + path,
            hint="memory is read that was never written, or a kernel is not deterministic: compare with "
            "async_scheduling and compilation_config off",
        )
    streamed, pieces = _streamed(client, path, body)
    if streamed != first:
        raise SmokeError(
            f"streamed, the answer is {short(streamed)}; in one piece it is {short(first)}",
            where=client.url + path,
            hint="look at the server's log: the stream broke off, or lost a piece",
        )
    return Check(name, body, {"text": first, "pieces": pieces}, round(time.monotonic() - began, 3))


def _streamed(client: Client, path: str, body: dict[str, Any]) -> tuple[str, int]:
    pieces = []
    for event in client.stream(path, body):
        for choice in event.get("choices") or []:
            delta = choice.get("delta")
            piece = choice.get("text") if delta is None else _piece(delta)
            if piece:
                pieces.append(str(piece))
    return "".join(pieces), len(pieces)


def _piece(delta: dict[str, Any]) -> Any:
    return delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")


def batch(client: Client, model: str, probes: Sequence[Probe], count: int) -> Check:
    """So many questions at the same time; every one is answered.

    Raises:
        SmokeError: one is not; with all that are not.
    """
    asked = [probes[number % len(probes)] for number in range(count)]
    bodies = [body_of(probe.model_copy(update={"max_tokens": _TOKENS}), model) for probe in asked]
    began = time.monotonic()
    texts = _all_at_once(
        [lambda path=path, body=body: _text_at(client, path, body) for path, body in bodies]  # type: ignore[misc]
    )
    seconds = round(time.monotonic() - began, 3)
    if failures := [text for text in texts if isinstance(text, SmokeError)]:
        raise SmokeError(
            f"{len(failures)} of {count} concurrent requests failed: {failures[0].what}",
            where=failures[0].where,
            hint=failures[0].hint,
            details=[failure.what for failure in failures],
        )
    return Check("batch", [body for _, body in bodies], texts, seconds)


def _text_at(client: Client, path: str, body: dict[str, Any]) -> str:
    return text_of(client.json(path, body), client.url + path)[0]


def _all_at_once(calls: Sequence[Callable[[], str]]) -> list[str | SmokeError]:
    """The results in order. Daemon threads: Ctrl-C does not wait for answers that nobody wants any more."""
    results: queue.SimpleQueue[tuple[int, str | SmokeError]] = queue.SimpleQueue()

    def work(number: int, call: Callable[[], str]) -> None:
        try:
            results.put((number, call()))
        except SmokeError as error:
            results.put((number, error))
        except Exception as error:
            results.put((number, SmokeError(f"the request failed: {error!r}")))

    for number, call in enumerate(calls):
        threading.Thread(target=work, args=(number, call), daemon=True).start()
    found = dict(results.get() for _ in calls)
    return [found[number] for number in range(len(calls))]


def finite(client: Client, model: str, probe: Probe) -> Check:
    """Log-probabilities of a greedy answer are numbers, and none is above zero.

    Raises:
        SmokeError: one is not, or none came.
    """
    path, body = body_of(probe, model)
    body = {**body, "logprobs": 1, "max_tokens": _TOKENS}
    began = time.monotonic()
    answer = client.json(path, body)
    where = client.url + path
    text, _ = text_of(answer, where)
    found = token_logprobs(answer)
    if not found:
        raise SmokeError("no log-probabilities came", where=where, hint="look at the server's log")
    bad = [value for value in found if not isinstance(value, int | float) or not _sound(value)]
    if bad:
        raise SmokeError(f"log-probabilities are not finite: {short(str(found))}", where=where, hint=_WRONG)
    numbers = {"text": text, "token_logprobs": found}
    return Check("logprobs", body, numbers, round(time.monotonic() - began, 3))


def _sound(value: float) -> bool:
    return math.isfinite(value) and _FLOOR < value < 1e-3


def token_logprobs(answer: dict[str, Any]) -> list[Any]:
    """The log-probabilities of a completion's tokens; empty where there are none."""
    try:
        values = answer["choices"][0]["logprobs"]["token_logprobs"]
    except (KeyError, IndexError, TypeError):
        return []
    return list(values) if isinstance(values, list) else []
