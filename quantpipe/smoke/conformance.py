"""What any server has to do, whatever the model: stream, repeat itself, serve many, finite numbers."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from quantpipe.errors import SmokeError
from quantpipe.recipe.probes import Probe
from quantpipe.smoke.client import short
from quantpipe.smoke.session import Request, Session

DEFAULT_PROMPT = "The future of AI is"
_TOKENS = 16
_FLOOR = -9000.0
"""vLLM writes -9999 for NaN and minus infinity."""

_WRONG = "the checkpoint computes something wrong: `quantpipe verify --deep` looks for the cause"


@dataclass(frozen=True)
class Exchange:
    """What was asked of a conforming server, and what it answered.

    Attributes:
        name: what it was for.
        request: the body or bodies sent; None where nothing was.
        answer: what came back.
        seconds: for all of it.
        skipped: why it was left out; None where it was not.
    """

    name: str
    request: Any = None
    answer: Any = None
    seconds: float = 0.0
    skipped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The exchange as the receipt keeps it."""
        return asdict(self)


def samples(probes: Sequence[Probe]) -> tuple[Probe, Probe]:
    """A short completion and a short chat: the recipe's first ones, or one of our own."""
    default = Probe(prompt=DEFAULT_PROMPT)
    text = next((probe for probe in probes if not probe.chat), default)
    chat = next((probe for probe in probes if probe.chat), default)
    brief = {"max_tokens": _TOKENS}
    return text.model_copy(update=brief), chat.model_copy(update={**brief, "chat": True})


def repeats(session: Session, probe: Probe, name: str) -> Exchange:
    """The same greedy question twice, and a third time as a stream: one text.

    Raises:
        SmokeError: the texts differ, or a request fails.
    """
    request = session.request(probe)
    began = time.monotonic()
    first, second = (session.complete(request).text for _ in range(2))
    if first != second:
        raise SmokeError(
            f"the same greedy question got two answers: {short(first)} and {short(second)}",
            where=session.url(request),
            hint="uninitialized memory is read, or a kernel is not deterministic: compare with "
            "async_scheduling and compilation_config off",
        )
    pieces = session.stream(request)
    if (streamed := "".join(pieces)) != first:
        raise SmokeError(
            f"streamed, the answer is {short(streamed)}; in one piece it is {short(first)}",
            where=session.url(request),
            hint="look at the server's log: the stream broke off, or lost a piece",
        )
    answer = {"text": first, "pieces": len(pieces)}
    return Exchange(name, request.body, answer, round(time.monotonic() - began, 3))


def batch(session: Session, probes: Sequence[Probe], count: int) -> Exchange:
    """So many questions at the same time; every one is answered.

    Raises:
        SmokeError: one is not; with all that are not.
    """
    asked = [probes[number % len(probes)] for number in range(count)]
    requests = [session.request(probe).changed(max_tokens=_TOKENS) for probe in asked]
    began = time.monotonic()
    texts = _all_at_once(session, requests)
    seconds = round(time.monotonic() - began, 3)
    if failures := [text for text in texts if isinstance(text, SmokeError)]:
        raise SmokeError(
            f"{len(failures)} of {count} concurrent requests failed: {failures[0].what}",
            where=failures[0].where,
            hint=failures[0].hint,
            details=[failure.what for failure in failures],
        )
    return Exchange("batch", [request.body for request in requests], texts, seconds)


def _all_at_once(session: Session, requests: Sequence[Request]) -> list[str | SmokeError]:
    """The texts in order. Daemon threads: Ctrl-C does not wait for answers that nobody needs any more."""
    results: queue.SimpleQueue[tuple[int, str | SmokeError]] = queue.SimpleQueue()

    def work(number: int, request: Request) -> None:
        try:
            results.put((number, session.complete(request).text))
        except SmokeError as error:
            results.put((number, error))
        except Exception as error:
            results.put((number, SmokeError(f"the request failed: {error!r}")))

    for number, request in enumerate(requests):
        threading.Thread(target=work, args=(number, request), daemon=True).start()
    found = dict(results.get() for _ in requests)
    return [found[number] for number in range(len(requests))]


def finite(session: Session, probe: Probe) -> Exchange:
    """Log-probabilities of a greedy answer are finite, and none is above zero.

    Raises:
        SmokeError: one is not, or none came.
    """
    request = session.request(probe).changed(logprobs=1, max_tokens=_TOKENS)
    began = time.monotonic()
    completion = session.complete(request)
    found, where = completion.token_logprobs, session.url(request)
    if not found:
        raise SmokeError("no log-probabilities came", where=where, hint="look at the server's log")
    bad = [value for value in found if not isinstance(value, int | float) or not _sound(value)]
    if bad:
        raise SmokeError(f"log-probabilities are not finite: {short(str(found))}", where=where, hint=_WRONG)
    numbers = {"text": completion.text, "token_logprobs": found}
    return Exchange("logprobs", request.body, numbers, round(time.monotonic() - began, 3))


def _sound(value: float) -> bool:
    return math.isfinite(value) and _FLOOR < value < 1e-3
