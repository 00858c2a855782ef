"""HTTP to the server under test: JSON in, JSON or a stream out, and every failure a SmokeError.

No proxy and no redirect: what is asked, and the key, go to the server's address and nowhere else. An answer
has a limit in time and size: the server may be anybody's.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from quantpipe.errors import SmokeError

_CHUNK_BYTES = 1 << 16
_LARGEST_ANSWER = 64 << 20
"""Bytes of one answer; a model's longest one has far less."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib follows redirects to any host, and sends the Authorization header there as well."""

    def redirect_request(self, *_request: Any, **_answer: Any) -> None:
        """Follow none: the answer is an HTTPError with the status of the redirect."""


def opener() -> urllib.request.OpenerDirector:
    """What opens a server's addresses: without the environment's proxies, without redirects."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())


@dataclass(frozen=True)
class Client:
    """A server's address, how long one answer may take, and the key that it requires.

    Attributes:
        url: without a trailing slash.
        timeout: seconds for a whole answer, not only for its next byte.
        api_key: vLLM's VLLM_API_KEY, where this address may have it; never shown.
    """

    url: str
    timeout: float
    api_key: str | None = field(default=None, repr=False)

    def json(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """GET, or POST where there is a body; an answer that is not an object counts as an empty one.

        Raises:
            SmokeError: no answer in time, an HTTP error, or no JSON.
        """
        with self._open(path, body) as (answer, deadline):
            data = bytearray()
            while chunk := answer.read1(_CHUNK_BYTES):
                data += chunk
                _require_bounds(len(data), deadline)
            expected = answer.headers.get("Content-Length")
            if expected is not None and len(data) < int(expected):
                raise ValueError(f"{len(data)} of {expected} bytes were received")
            value = json.loads(data)
        return value if isinstance(value, dict) else {}

    def stream(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """POST with `stream`, and every event of the answer (server-sent events, one JSON object each).

        Raises:
            SmokeError: as `json`, or the stream ended without `[DONE]`.
        """
        events: list[dict[str, Any]] = []
        size = 0
        with self._open(path, {**body, "stream": True}) as (answer, deadline):
            while line := answer.readline(_CHUNK_BYTES):
                size += len(line)
                _require_bounds(size, deadline)
                kind, _, text = line.decode("utf-8").strip().partition(":")
                if kind != "data":
                    continue
                if text.strip() == "[DONE]":
                    return events
                value = json.loads(text)
                events += [value] if isinstance(value, dict) else []
            raise ValueError(f"the stream ended after {len(events)} events without [DONE]")

    @contextlib.contextmanager
    def _open(self, path: str, body: dict[str, Any] | None) -> Iterator[tuple[Any, float]]:
        """The open answer and the time by which it has to be complete; failures become SmokeError."""
        where = self.url + path
        headers = {"Content-Type": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        data = None if body is None else json.dumps(body).encode("utf-8")
        request = urllib.request.Request(where, data, headers)
        deadline = time.monotonic() + self.timeout
        try:
            with opener().open(request, timeout=self.timeout) as answer:
                yield answer, deadline
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error, where) from error
        except TimeoutError as error:
            raise self._too_late(where) from error
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise self._too_late(where) from error
            raise SmokeError(
                f"no valid answer: {error!r}", where=where, hint="look at the server's log"
            ) from error

    def _refused(self, error: urllib.error.HTTPError, where: str) -> SmokeError:
        """What an HTTP error says, and what to do about it."""
        if 300 <= error.code < 400:
            target = short(error.headers.get("Location") or "")
            hint = "redirects are not followed: name the address of the server itself"
            return SmokeError(f"HTTP {error.code}: a redirect to {target}", where=where, hint=hint)
        text = error.read(_CHUNK_BYTES).decode("utf-8", "replace")
        hint = "look at the server's log"
        if error.code in (401, 403):
            hint = "set VLLM_API_KEY to the key that the server was started with"
            if not self.api_key:
                hint += f"; it is sent only to addresses that you name: --api-key-urls {self.url}, or --url"
        return SmokeError(f"HTTP {error.code}: {short(text)}", where=where, hint=hint)

    def _too_late(self, where: str) -> SmokeError:
        hint = "raise smoke.timeouts.probe, or look at the server's log"
        return SmokeError(f"no answer within {self.timeout:.0f} s", where=where, hint=hint)


def _require_bounds(size: int, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError
    if size > _LARGEST_ANSWER:
        raise ValueError(f"the answer has more than {_LARGEST_ANSWER >> 20} MiB")


def short(text: str, limit: int = 120) -> str:
    """`text` as a literal, truncated where it is long."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
