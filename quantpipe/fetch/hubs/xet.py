"""Xet, the chunked storage of Hugging Face: several connections for one file, via hf_xet.

Its streams start at any offset and arrive in order, so bytes are hashed and resumed as with plain HTTP.
It is known to hang (huggingface_hub#4223, xet-core#883): the first fault in a file ends Xet for that
file, a few faults end it for the run, and plain HTTP continues at the byte that was reached.
HF_HUB_DISABLE_XET=1 disables it. In hf_xet 1.8 `cancel` of a stream that waits raises ("Already borrowed");
`abort` of its group ends it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantpipe.errors import QuantpipeError
from quantpipe.fetch.hub import PassingFault, RemoteFile, Sink, Stopped
from quantpipe.fetch.hubs import http
from quantpipe.redact import add_secret, redact

if TYPE_CHECKING:
    import requests

SMALLEST_BYTES = 32 << 20
"""Below this, plain HTTP is done before Xet has located the chunks."""

_FAULTS_OF_A_RUN = 3
_TOKEN_MARGIN_SECONDS = 60.0


@dataclass(frozen=True)
class _Access:
    """Where the chunks are, and the short-lived token for them (headers X-Xet-* of the hub's answer)."""

    endpoint: str
    token: str
    expires: int


class Xet:
    """The transfers of one run by Xet.

    Args:
        session: for the hub's requests about chunks; has the user's token.
        smallest: files below this size are left to plain HTTP, bytes.
    """

    def __init__(self, session: requests.Session, *, smallest: int = SMALLEST_BYTES) -> None:
        self._session = session
        self._smallest = smallest
        self._lock = threading.Lock()
        self._access: dict[str, _Access] = {}
        self._avoided: set[str] = set()
        self._delivered: set[str] = set()
        self._runtime: Any = None
        self._on = available()

    def deliver(self, url: str, file: RemoteFile, sink: Sink) -> bool:
        """Deliver the rest of a file; False where plain HTTP has to.

        Args:
            url: the file's address at the hub.

        Raises:
            PassingFault: the transfer broke off; the next attempt uses plain HTTP.
        """
        if not self._on or file.path in self._avoided or file.size < self._smallest:
            return False
        if file.path in self._delivered:  # and it was wrong, else it would not be requested again
            self._avoid(file)
            return False
        start = sink.offset
        try:
            group, stream = self._open(url, file, start) or (None, None)
        except Exception:  # whatever is wrong with Xet, plain HTTP gives the better error
            self._avoid(file)
            return False
        if group is None or stream is None:
            return False
        done = False
        sink.on_abort(group.abort)
        try:
            for chunk in stream:
                sink.write(chunk)
            done = sink.offset >= file.size
        except (Stopped, QuantpipeError):
            raise
        except Exception as error:
            raise PassingFault(redact(f"{file.path}: Xet: {type(error).__name__}: {error}")) from None
        finally:
            if not done:
                self._avoid(file)
                group.abort()
        self._delivered.add(file.path)
        return True

    def _open(self, url: str, file: RemoteFile, start: int) -> tuple[Any, Any] | None:
        """The group and the stream of a file's rest; None where the file is not in Xet."""
        limits = (http.CONNECT_SECONDS, http.SILENCE_SECONDS)
        answer = self._session.head(url, allow_redirects=False, timeout=limits)
        content = answer.headers.get("X-Xet-Hash")
        refresh = answer.links.get("xet-auth", {}).get("url") or answer.headers.get("X-Xet-Refresh-Route")
        if answer.status_code >= 400 or not content or not refresh:
            return None
        access = self._token(refresh)
        client = importlib.import_module("hf_xet")
        with self._lock:
            self._runtime = self._runtime or client.XetSession()
        headers = {name: str(value) for name, value in self._session.headers.items()}
        group = self._runtime.new_download_stream_group(
            endpoint=access.endpoint,
            token=access.token,
            token_expiry_unix_secs=access.expires,
            token_refresh_url=refresh,
            token_refresh_headers={**headers, **_authorization(answer)},
            custom_headers=headers,
        )
        return group, group.download_stream(client.XetFileInfo(content, file.size), start=start)

    def _token(self, refresh: str) -> _Access:
        with self._lock:
            access = self._access.get(refresh)
            if access is None or access.expires < time.time() + _TOKEN_MARGIN_SECONDS:
                limits = (http.CONNECT_SECONDS, http.SILENCE_SECONDS)
                with self._session.get(refresh, timeout=limits, stream=True) as answer:
                    # All is in the headers: the body, of any length, is not read.
                    answer.raise_for_status()
                    access = _Access(
                        answer.headers["X-Xet-Cas-Url"],
                        answer.headers["X-Xet-Access-Token"],
                        int(answer.headers["X-Xet-Token-Expiration"]),
                    )
                add_secret(access.token)
                self._access[refresh] = access
            return access

    def _avoid(self, file: RemoteFile) -> None:
        self._avoided.add(file.path)
        if len(self._avoided) >= _FAULTS_OF_A_RUN:
            self._on = False


def available() -> bool:
    """Whether hf_xet is installed and the user has not disabled it."""
    off = os.environ.get("HF_HUB_DISABLE_XET", "").upper() in {"1", "ON", "YES", "TRUE"}
    return not off and importlib.util.find_spec("hf_xet") is not None


def _authorization(answer: requests.Response) -> dict[str, str]:
    sent = answer.request.headers.get("Authorization")
    return {} if sent is None else {"Authorization": str(sent)}
