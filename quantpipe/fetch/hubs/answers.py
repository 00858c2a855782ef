"""What a hub answers to a question: read within a limit of size and of time, and understood, or refused.

The clients' own questions have neither limit: an answer that never ends would take all memory, and one that
comes byte by byte would hold the run for days.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from quantpipe.checkpoint import strict_json
from quantpipe.checkpoint.strict_json import MAX_JSON_BYTES
from quantpipe.errors import PreflightError
from quantpipe.fetch.hub import PassingFault
from quantpipe.fetch.hubs import http

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

ANSWER_SECONDS = 60.0
"""An answer that is no weight file is complete within so long, or it is no answer."""


def read_small(
    session: requests.Session,
    url: str,
    headers: Mapping[str, str],
    *,
    what: str,
    page: str,
    seconds: float = ANSWER_SECONDS,
) -> bytes:
    """The content of a small file or answer: bounded in size, and in time from the request to the last byte.

    Raises:
        PreflightError: it is longer than `MAX_JSON_BYTES`; and as `http.download` does.
    """
    asked = {**headers, "Accept-Encoding": "identity"}
    limits = (http.CONNECT_SECONDS, http.SILENCE_SECONDS)
    deadline = time.monotonic() + seconds

    def read() -> bytes:
        data = bytearray()
        with (
            http.passing(what),
            session.get(url, headers=asked, stream=True, timeout=limits) as answer,
        ):
            http.check_status(answer, what, page)
            while chunk := answer.raw.read1(http.CHUNK_BYTES, decode_content=False):
                data += chunk
                if len(data) > MAX_JSON_BYTES:
                    raise _too_long(what, page)
                if time.monotonic() > deadline:
                    raise PassingFault(f"{what}: no complete answer within {seconds:g} s")
            declared = answer.headers.get("Content-Length", "")
            if declared.isdecimal() and int(declared) != len(data):
                raise PassingFault(f"{what}: {len(data):,} of {int(declared):,} bytes were received")
        return bytes(data)

    return _within(seconds, read, what)


def parse_answer(answer: bytes) -> Any:
    """The JSON value of a hub's answer.

    Raises:
        PassingFault: it is not JSON, or not within the limits of `strict_json`.
    """
    try:
        return strict_json.parse(answer)
    except ValueError as error:
        raise PassingFault(f"the answer {error}") from None


def understood(parse: Callable[[], T], what: str, page: str) -> T:
    """What `parse` makes of a hub's answer.

    Args:
        parse: raises ValueError where the answer makes no sense: a sentence without its subject.
        what: the subject of the question.
        page: the repository's page.

    Raises:
        PreflightError: the answer makes no sense.
    """
    try:
        return parse()
    except ValueError as error:
        raise PreflightError(
            f"the hub's answer for {what} {error}",
            where=page,
            hint="if HF_ENDPOINT or MODELSCOPE_ENDPOINT names a mirror, it may not support this: "
            "use the hub itself",
        ) from None


def _within(seconds: float, read: Callable[[], bytes], what: str) -> bytes:
    """What `read` returns, if it does so in time; a server may also send its headers byte by byte."""
    outcome: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            outcome.put(read())
        except BaseException as error:
            outcome.put(error)

    threading.Thread(target=attempt, name="quantpipe-question", daemon=True).start()
    try:
        found = outcome.get(timeout=seconds)
    except queue.Empty:
        raise PassingFault(f"{what}: no complete answer within {seconds:g} s") from None
    if isinstance(found, BaseException):
        raise found
    return found


def _too_long(what: str, page: str) -> PreflightError:
    return PreflightError(
        f"the hub's answer for {what} is longer than {MAX_JSON_BYTES:,} bytes",
        where=page,
        hint="check the endpoint and the proxy: this is not a normal answer of the hub",
    )
