"""Requests to the loopback hubs, and their answers other than files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """A request that was answered.

    Attributes:
        path: of the file in the repository, or `api`.
        start: first byte asked for.
        sent: bytes of the body that were sent.
        token: from the Authorization header.
    """

    path: str
    start: int
    sent: int
    status: int
    origin: str
    token: str | None


@dataclass
class Answer:
    """An HTTP answer that is not a file."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def json_answer(value: Any, *, status: int = 200) -> Answer:
    """An answer whose body is JSON."""
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(value).encode())
