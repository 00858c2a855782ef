"""One model on one server: greedy requests to it, and what it completes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.errors import SmokeError
from quantpipe.recipe.probes import Probe
from quantpipe.smoke.client import Client, short

COMPLETIONS = "/v1/completions"
CHAT_COMPLETIONS = "/v1/chat/completions"
_MODELS = "/v1/models"
_TAKEN = "another server took the port: name another with --port, or 0 for a free one"


@dataclass(frozen=True)
class Request:
    """What is sent.

    Attributes:
        path: below the server's URL.
        body: the JSON object.
    """

    path: str
    body: dict[str, Any]

    def changed(self, **values: Any) -> Request:
        """The same request with other values in its body."""
        return Request(self.path, {**self.body, **values})


@dataclass(frozen=True)
class Completion:
    """What came back.

    Attributes:
        text: of the first choice.
        finish_reason: why it ended: "stop", "length".
        token_logprobs: log-probabilities of the tokens, as they came; empty where there are none.
    """

    text: str
    finish_reason: str | None
    token_logprobs: list[Any]


@dataclass(frozen=True)
class Session:
    """One model on one server.

    Attributes:
        model: its served name.
    """

    client: Client
    model: str

    def url(self, request: Request) -> str:
        """Where a request goes, for messages."""
        return self.client.url + request.path

    def request(self, probe: Probe) -> Request:
        """A probe's request: greedy."""
        body: dict[str, Any] = {"model": self.model, "temperature": 0, "max_tokens": probe.max_tokens}
        if probe.chat:
            return Request(
                CHAT_COMPLETIONS, {**body, "messages": [{"role": "user", "content": probe.prompt}]}
            )
        return Request(COMPLETIONS, {**body, "prompt": probe.prompt})

    def complete(self, request: Request) -> Completion:
        """Send it and wait for the whole answer.

        Raises:
            SmokeError: no answer in time, an HTTP error, no JSON, or no `choices`.
        """
        answer = self.client.json(request.path, request.body)
        try:
            choice = answer["choices"][0]
            message = choice.get("message")
            text = choice["text"] if message is None else _content(message)
            reason = choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise SmokeError(
                f"the answer has no choices: {short(json.dumps(answer))}",
                where=self.url(request),
                hint="this is not an OpenAI-compatible server, or it failed internally: look at its log",
            ) from error
        return Completion("" if text is None else str(text), reason, _token_logprobs(choice))

    def stream(self, request: Request) -> list[str]:
        """Send it and take the text as it comes, in pieces.

        Raises:
            SmokeError: as `complete`, or the stream ended early.
        """
        pieces = []
        for event in self.client.stream(request.path, request.body):
            for choice in event.get("choices") or []:
                delta = choice.get("delta")
                piece = choice.get("text") if delta is None else _delta(delta)
                if piece:
                    pieces.append(str(piece))
        return pieces

    def require_checkpoint(
        self, checkpoint: Path, *, ours: bool = True, unverified: bool = False
    ) -> dict[str, Any]:
        """Ask /v1/models for the served name, and for the checkpoint that it stands for.

        Without the second question the server of another run, on a port that both were given, or a gateway
        in front of any model would vouch for a checkpoint that it never loaded. vLLM reports the path as
        `root`.

        Args:
            ours: the server was started with this very path; a server that somebody else started, in a
                container perhaps, may know the checkpoint by another path with the same last name.
            unverified: accept a server that reports no `root`; one that reports another is refused anyway.

        Returns:
            What the server says of the model.

        Raises:
            SmokeError: no answer, or another model.
        """
        data = self.client.json(_MODELS).get("data")
        models = [model for model in data if isinstance(model, dict)] if isinstance(data, list) else []
        served = [model.get("id") for model in models]
        where = self.client.url + _MODELS
        if self.model not in served:
            raise SmokeError(
                f"the server serves {served} and not {self.model!r}",
                where=where,
                hint="check smoke.serve.served_model_name",
            )
        model = models[served.index(self.model)]
        root = model.get("root")
        if root is None and not unverified:
            raise SmokeError(
                "the server does not report which directory it serves, so it cannot vouch for a checkpoint",
                where=where,
                hint=_TAKEN
                if ours
                else "name the address of vLLM itself, not of a gateway; or set smoke.unverified: true",
            )
        if root is not None and not _same(str(root), checkpoint, ours=ours):
            raise SmokeError(
                f"the server serves {root} and not {checkpoint}",
                where=where,
                hint=_TAKEN if ours else "name the checkpoint that this server was started with",
            )
        return model


def _same(root: str, checkpoint: Path, *, ours: bool) -> bool:
    if root == str(checkpoint):
        return True
    # The server's path is taken as text: a link on its host, `current` say, may have moved since it loaded.
    return not ours and Path(root).name == checkpoint.resolve().name


def _content(message: dict[str, Any]) -> Any:
    """A reasoning parser may put all of an unfinished text into a field of its own."""
    return message["content"] or message.get("reasoning_content") or message.get("reasoning")


def _delta(delta: dict[str, Any]) -> Any:
    return delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")


def _token_logprobs(choice: dict[str, Any]) -> list[Any]:
    try:
        values = choice["logprobs"]["token_logprobs"]
    except (KeyError, TypeError):
        return []
    return list(values) if isinstance(values, list) else []
