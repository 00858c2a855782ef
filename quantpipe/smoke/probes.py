"""Questions to a running server, and what counts as an answer."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quantpipe.errors import SmokeError
from quantpipe.recipe.model import Probe
from quantpipe.smoke.client import Client, short
from quantpipe.smoke.garbage import garbage


@dataclass(frozen=True)
class Answer:
    """One probe and what came back.

    Attributes:
        prompt: the question.
        expected: the known continuation; None where there is none.
        text: the answer.
        matches: whether it begins with the known continuation; None where there is none.
        seconds: from request to answer.
        path: where it was asked.
        request: what was asked, as sent.
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
        """The answer as the receipt keeps it."""
        return asdict(self)


def require_model(client: Client, name: str, checkpoint: Path, *, ours: bool = True) -> dict[str, Any]:
    """Ask /v1/models for the served name, and for the checkpoint behind it.

    Without the second question the server of another run, on a port that both were given, would vouch
    for a checkpoint that it never saw. vLLM tells the path as `root`.

    Args:
        ours: the server was started with this very path; a server that somebody else started, in a
            container perhaps, may know the checkpoint by another path of the same last name.

    Returns:
        What the server says of the model.

    Raises:
        SmokeError: no answer, or another model.
    """
    path = "/v1/models"
    data = client.json(path).get("data")
    models = [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []
    served = [model.get("id") for model in models]
    if name not in served:
        raise SmokeError(
            f"the server serves {served} and not {name!r}",
            where=client.url + path,
            hint="check smoke.serve.served_model_name",
        )
    model = models[served.index(name)]
    root = model.get("root")
    if root is not None and not _same(str(root), checkpoint, ours=ours):
        raise SmokeError(
            f"the server serves {root} and not {checkpoint}",
            where=client.url + path,
            hint="another server took the port: name another with --port, or 0 for a free one"
            if ours
            else "name the checkpoint that this server was started with",
        )
    return model


def _same(root: str, checkpoint: Path, *, ours: bool) -> bool:
    if root == str(checkpoint):
        return True
    return not ours and Path(root).resolve().name == checkpoint.resolve().name


def body_of(probe: Probe, model: str) -> tuple[str, dict[str, Any]]:
    """The path to ask at, and the request's body: greedy."""
    body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": probe.max_tokens}
    if probe.chat:
        return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": probe.prompt}]}
    return "/v1/completions", {**body, "prompt": probe.prompt}


def ask(client: Client, model: str, probe: Probe, *, strict: bool = True) -> Answer:
    """Ask one question, greedily.

    Args:
        strict: a text that cannot be right is an error; else it is only noted in the answer.

    Raises:
        SmokeError: no answer in time, an HTTP error, no `choices`, or a text that cannot be right.
    """
    path, body = body_of(probe, model)
    began = time.monotonic()
    answer = client.json(path, body)
    seconds = round(time.monotonic() - began, 3)
    text, reason = text_of(answer, client.url + path)
    expected = probe.continuation
    matches = None if expected is None else text.strip().startswith(expected.strip())
    fault = None if matches else _fault(probe, text, reason)
    if fault and strict:
        raise SmokeError(
            f"the answer to {short(probe.prompt)} is {fault}: {short(text)}",
            where=client.url + path,
            hint="the checkpoint computes something wrong: `quantpipe verify --deep` looks for the cause",
        )
    return Answer(probe.prompt, expected, text, matches, seconds, path, body, reason, fault)


def _fault(probe: Probe, text: str, reason: str | None) -> str | None:
    if probe.must_stop and reason != "stop":
        return f"not at its end after {probe.max_tokens} tokens"
    return garbage(text, None if probe.any_script else probe.prompt, cut=reason == "length")


def require_matches(answers: list[Answer], least: float) -> None:
    """Enough of the known continuations have to come.

    Args:
        least: share between 0 and 1.

    Raises:
        SmokeError: fewer; with each mismatch.
    """
    known = [answer for answer in answers if answer.matches is not None]
    missed = [answer for answer in known if not answer.matches]
    if not known or 1 - len(missed) / len(known) >= least:
        return
    raise SmokeError(
        f"{len(missed)} of {len(known)} known continuations did not come",
        where="smoke.probes",
        hint="quantization changed the model too much, or the probes belong to another model",
        details=[
            f"{short(a.prompt)}: expected {short(a.expected or '')}, got {short(a.text)}" for a in missed
        ],
    )


def text_of(answer: dict[str, Any], where: str) -> tuple[str, str | None]:
    """Text and finish reason of the first choice, of either kind of completion.

    Raises:
        SmokeError: there is no choice.
    """
    try:
        choice = answer["choices"][0]
        message = choice.get("message")
        text = choice["text"] if message is None else _content(message)
        return "" if text is None else str(text), choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise SmokeError(
            f"the answer has no choices: {short(json.dumps(answer))}",
            where=where,
            hint="this is no OpenAI-compatible server, or it failed inside: look at its log",
        ) from error


def _content(message: dict[str, Any]) -> Any:
    """A reasoning parser may put all that there is so far into a field of its own."""
    return message["content"] or message.get("reasoning_content") or message.get("reasoning")
