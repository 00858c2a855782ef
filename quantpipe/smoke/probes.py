"""The recipe's probes, asked of a running server, and what counts as a reply."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from quantpipe.errors import SmokeError
from quantpipe.recipe.probes import Probe
from quantpipe.smoke.client import short
from quantpipe.smoke.garbage import garbage
from quantpipe.smoke.session import Completion, Session


@dataclass(frozen=True)
class Reply:
    """One probe and its reply.

    Attributes:
        prompt: the question.
        expected: the known continuation; None where there is none.
        text: the model's text.
        matches: whether it begins with the known continuation; None where there is none.
        seconds: from request to reply.
        path: the endpoint.
        request: the body, as sent.
        finish_reason: why it ended: "stop", "length".
        fault: what is plainly wrong with the text, where that is tolerated.
    """

    prompt: str
    expected: str | None
    text: str
    matches: bool | None
    seconds: float
    path: str = ""
    request: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The reply as the receipt keeps it."""
        return asdict(self)


def ask(session: Session, probe: Probe, *, strict: bool = True) -> Reply:
    """Ask one question, greedily.

    Args:
        strict: a text that cannot be right is an error; else it is only noted in the reply.

    Raises:
        SmokeError: no answer in time, an HTTP error, no `choices`, or a text that cannot be right.
    """
    request = session.request(probe)
    began = time.monotonic()
    completion = session.complete(request)
    seconds = round(time.monotonic() - began, 3)
    expected, text = probe.continuation, completion.text
    matches = None if expected is None else text.strip().startswith(expected.strip())
    fault = None if matches else _fault(probe, completion)
    if fault and strict:
        raise SmokeError(
            f"the answer to {short(probe.prompt)} is {fault}: {short(text)}",
            where=session.url(request),
            hint="the checkpoint computes something wrong: `quantpipe verify --deep` looks for the cause",
        )
    reason = completion.finish_reason
    return Reply(probe.prompt, expected, text, matches, seconds, request.path, request.body, reason, fault)


def _fault(probe: Probe, completion: Completion) -> str | None:
    if probe.must_stop and completion.finish_reason != "stop":
        return f"not complete after {probe.max_tokens} tokens"
    cut = completion.finish_reason == "length"
    return garbage(completion.text, None if probe.any_script else probe.prompt, cut=cut)


def require_matches(replies: Sequence[Reply], least: float) -> None:
    """Enough of the known continuations have to come.

    Args:
        least: share between 0 and 1.

    Raises:
        SmokeError: fewer; with each mismatch.
    """
    known = [reply for reply in replies if reply.matches is not None]
    missed = [reply for reply in known if not reply.matches]
    if not known or 1 - len(missed) / len(known) >= least:
        return
    raise SmokeError(
        f"{len(missed)} of {len(known)} known continuations did not come",
        where="smoke.probes",
        hint="quantization changed the model too much, or the probes belong to another model",
        details=[
            f"{short(r.prompt)}: expected {short(r.expected or '')}, got {short(r.text)}" for r in missed
        ],
    )
