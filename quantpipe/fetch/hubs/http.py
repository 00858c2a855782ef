"""Bytes over HTTP: ranged, streamed, cut off from another thread, and with every failure put into words.

The hubs' clients say where a file is and who asks for it; they cannot continue a file that a killed run
began (huggingface_hub), or bound it in time (modelscope-hub), so the transfer itself is done here.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from quantpipe.errors import PreflightError, QuantpipeError, RecipeError
from quantpipe.fetch.hub import PassingFault, RemoteFile, Sink
from quantpipe.redact import redact

if TYPE_CHECKING:
    import requests

CHUNK_BYTES = 1 << 20
"""At most so many bytes of a file are between the network and the disk: what a kill loses."""

CONNECT_SECONDS = 15.0
SILENCE_SECONDS = 60.0
"""A read that brings nothing for so long ends; the watchdog of the transfer may be quicker."""

_REDIRECT_BYTES = 64 << 10
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})


def make_session(token: str | None) -> requests.Session:
    """A session with the token, many connections and no retries of its own.

    Proxies and certificates come from the environment as usual (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE,
    CURL_CA_BUNDLE), and from SSL_CERT_FILE. The token is not sent to other hosts (signed URLs).
    """
    import requests
    from requests.adapters import HTTPAdapter
    from requests.auth import AuthBase

    class Token(AuthBase):
        """Also keeps an entry in ~/.netrc from replacing the token."""

        def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
            if token:
                request.headers["Authorization"] = f"Bearer {token}"
            return request

    session = requests.Session()
    session.auth = Token()
    if os.environ.get("SSL_CERT_FILE"):
        session.verify = os.environ["SSL_CERT_FILE"]
    session.hooks["response"].append(_drop_long_redirect)
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=0, pool_connections=4, pool_maxsize=64))
    return session


def download(
    session: requests.Session,
    url: str,
    headers: Mapping[str, str],
    file: RemoteFile,
    sink: Sink,
    *,
    page: str,
) -> None:
    """Deliver the rest of a file.

    Args:
        page: the repository's page, for errors.

    Raises:
        PassingFault: the connection broke, or the server is busy.
        PreflightError, RecipeError: the server refuses.
    """
    asked = {**headers, "Accept-Encoding": "identity"}
    if sink.offset:
        asked["Range"] = f"bytes={sink.offset}-"
    with (
        passing(file.path),
        session.get(url, headers=asked, stream=True, timeout=(CONNECT_SECONDS, SILENCE_SECONDS)) as response,
    ):
        sink.on_abort(getattr(response.raw, "shutdown", response.raw.close))  # urllib3 < 2.3 only closes
        if response.status_code == 416:
            sink.restart()
            raise PassingFault("the server has fewer bytes than were fetched: restarting the file")
        check_status(response, file.path, page)
        _position(response, file, sink)
        rest = file.size - sink.offset
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
            rest -= len(chunk)
            if rest < 0:
                sink.restart()
                raise PassingFault(f"the server sent more than {file.size:,} bytes: restarting the file")
            sink.write(chunk)


def _drop_long_redirect(response: requests.Response, *args: object, **kwargs: object) -> None:
    """requests reads the body of a redirect to its end, which a server need not send."""
    length = response.headers.get("Content-Length", "")
    if response.is_redirect and not (length.isdecimal() and int(length) <= _REDIRECT_BYTES):
        response.raw.close()


def check_status(response: requests.Response, what: str, page: str) -> None:
    """Raise what an HTTP status means: PassingFault, PreflightError or RecipeError."""
    if response.status_code < 400:
        return
    elsewhere = bool(response.history) and (
        urlsplit(response.history[0].url).netloc != urlsplit(response.url).netloc
    )
    if elsewhere and response.status_code in (400, 401, 403, 404, 410):
        # Signed addresses lapse; the hub gives a fresh one when it is asked again.
        raise PassingFault(f"HTTP {response.status_code} from the hub's storage")
    raise explain_status(response.status_code, response.headers, what, page)


def explain_status(status: int, headers: Mapping[str, str], what: str, page: str) -> Exception:
    """The error that a hub's HTTP status stands for.

    Args:
        headers: of the answer, for Retry-After and the reasons that Hugging Face gives.
        what: the file or repository that was asked for.
        page: the repository's page.
    """
    reason = headers.get("X-Error-Code", "")
    if status in _PASSING:
        return PassingFault(f"HTTP {status} for {what}", retry_after=retry_after(headers))
    if status == 403 or reason == "GatedRepo":
        return PreflightError(
            f"access to {what} denied (HTTP {status}): the repository is gated, or the token lacks access",
            where=page,
            hint="accept the licence on that page with the token's account, and check the token's scope",
        )
    if reason in ("RevisionNotFound", "EntryNotFound"):
        subject = "revision" if reason == "RevisionNotFound" else "file"
        return RecipeError(
            f"the hub has no such {subject} (HTTP {status}): {what}",
            where=page,
            hint="check source.revision and source.repo in the recipe",
        )
    if status == 401:
        return PreflightError(
            f"authentication failed for {what} (HTTP 401): the token is missing, wrong or expired, "
            "or there is no such repository",
            where=page,
            hint="set HF_TOKEN or MODELSCOPE_API_TOKEN to a valid token, and check source.repo",
        )
    if status in (404, 410):
        return RecipeError(
            f"the hub has no {what} (HTTP {status})",
            where=page,
            hint="check source.repo and source.revision in the recipe; private repositories need a token",
        )
    return PreflightError(
        f"the hub refuses {what} (HTTP {status})",
        where=page,
        hint="check the endpoint and the proxy: this is not a normal answer of the hub",
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the server asks: Retry-After (RFC 9110, 10.2.3), or `t` of the ratelimit header."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if text:
        with contextlib.suppress(TypeError, ValueError):
            date = parsedate_to_datetime(text)
            return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
    match = re.search(r"\br=0;\s*t=(\d+)", headers.get("ratelimit", "").replace(" ", ""))
    return float(match.group(1)) if match else None


@contextlib.contextmanager
def passing(what: str) -> Iterator[None]:
    """Turn what goes wrong on the wire into PassingFault, without any address that may be signed."""
    import requests
    import urllib3

    try:
        yield
    except (PassingFault, QuantpipeError):
        raise
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise PreflightError(
            f"the hub's address is wrong: {redact(str(error))}",
            hint="check HF_ENDPOINT or MODELSCOPE_ENDPOINT",
        ) from None
    except requests.exceptions.SSLError as error:
        raise PassingFault(f"{what}: TLS failed: {_innermost(error)}") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise PassingFault(f"{what}: {_innermost(error)}") from None


def _position(response: requests.Response, file: RemoteFile, sink: Sink) -> None:
    """Make sure that the body begins where the sink ends."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match and int(match[1]) == sink.offset and match[2] in (str(file.size), "*"):
            return
        sink.restart()
        raise PassingFault("the server continued at the wrong offset: restarting the file")
    if sink.offset:
        sink.restart()


def _innermost(error: BaseException) -> str:
    """What happened, in words, without the address that was asked for."""
    cause: BaseException = error
    while True:
        inner = getattr(cause, "reason", None) or cause.__cause__ or (cause.args[0] if cause.args else None)
        if not isinstance(inner, BaseException):
            break
        cause = inner
    text = re.sub(r"^<[^>]*>: |^HTTPS?ConnectionPool\([^)]*\): ", "", str(cause))
    return redact(f"{type(cause).__name__}: {text}")
