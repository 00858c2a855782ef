"""Questions to a running server, and what counts as an answer."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantpipe.errors import SmokeError
from quantpipe.recipe import Probe


@dataclass(frozen=True)
class Answer:
    """One probe and what came back.

    Attributes:
        prompt: the question.
        expected: the known continuation; None where there is none.
        text: the answer.
        matches: whether it begins with the known continuation; None where there is none.
        seconds: from request to answer.
    """

    prompt: str
    expected: str | None
    text: str
    matches: bool | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The answer as the receipt keeps it."""
        return asdict(self)


def require_model(url: str, name: str, checkpoint: Path, timeout: float) -> None:
    """Ask /v1/models for the served name, and for the checkpoint behind it.

    Without the second question the server of another run, on a port that both were given, would vouch
    for a checkpoint that it never saw. vLLM tells the path as `root`.

    Raises:
        SmokeError: no answer, or another model.
    """
    where = f"{url}/v1/models"
    data = _request(where, None, timeout).get("data")
    models = [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []
    served = [model.get("id") for model in models]
    if name not in served:
        raise SmokeError(
            f"the server serves {served} and not {name!r}",
            where=where,
            hint="check smoke.serve.served_model_name",
        )
    root = models[served.index(name)].get("root")
    if root is not None and str(root) != str(checkpoint):
        raise SmokeError(
            f"the server serves {root} and not {checkpoint}",
            where=where,
            hint="another server took the port: name another with --port, or 0 for a free one",
        )


def ask(url: str, model: str, probe: Probe, timeout: float) -> Answer:
    """Ask one question, greedily.

    Raises:
        SmokeError: no answer in time, an HTTP error, no `choices`, or a text that cannot be right.
    """
    body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": probe.max_tokens}
    if probe.chat:
        path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": probe.prompt}]
    else:
        path, body["prompt"] = "/v1/completions", probe.prompt
    began = time.monotonic()
    answer = _request(url + path, body, timeout)
    seconds = round(time.monotonic() - began, 3)
    text = _text(answer, probe.chat, url + path)
    if fault := garbage(text):
        raise SmokeError(
            f"the answer to {_short(probe.prompt)} is {fault}: {_short(text)}",
            where=url + path,
            hint="the checkpoint computes something wrong: `quantpipe verify --deep` looks for the cause",
        )
    expected = probe.continuation
    matches = None if expected is None else text.strip().startswith(expected.strip())
    return Answer(probe.prompt, expected, text, matches, seconds)


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
            f"{_short(a.prompt)}: expected {_short(a.expected or '')}, got {_short(a.text)}" for a in missed
        ],
    )


def garbage(text: str) -> str | None:
    """What is plainly wrong with a text; None where nothing is.

    Cheap signs of a model that computes nonsense: nothing, replacement characters, one token over and over.
    """
    stripped = text.strip()
    if not stripped:
        return "empty"
    if "\ufffd" in stripped[:-1]:  # the last character may be cut by max_tokens
        return "not valid text"
    if len(stripped) >= 16 and len(set(stripped.split())) == 1 and len(stripped.split()) > 4:
        return "one word over and over"
    if len(stripped) >= 16 and len(set(stripped)) <= 2:
        return "one character over and over"
    return None


def _text(answer: dict[str, Any], chat: bool, where: str) -> str:
    try:
        choice = answer["choices"][0]
        text = choice["message"]["content"] if chat else choice["text"]
        return "" if text is None else str(text)
    except (KeyError, IndexError, TypeError) as error:
        raise SmokeError(
            f"the answer has no choices: {_short(json.dumps(answer))}",
            where=where,
            hint="this is no OpenAI-compatible server, or it failed inside: look at its log",
        ) from error


def _request(url: str, body: dict[str, Any] | None, timeout: float) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode("utf-8")
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as answer:
            value = json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read().decode("utf-8", "replace")
        raise SmokeError(
            f"HTTP {error.code}: {_short(text)}", where=url, hint="look at the server's log"
        ) from error
    except TimeoutError as error:
        raise SmokeError(
            f"no answer within {timeout:.0f} s",
            where=url,
            hint="raise smoke.timeouts.probe, or look at the log",
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SmokeError(f"no valid answer: {error!r}", where=url, hint="look at the server's log") from error
    return value if isinstance(value, dict) else {}


def _short(text: str, limit: int = 120) -> str:
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
