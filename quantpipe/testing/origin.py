"""One address of a loopback hub: files with ranges, redirects, faults, and the answers of its interface."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import parse_qsl, urlsplit

from quantpipe.testing.answers import Answer, Request
from quantpipe.testing.faults import Fault
from quantpipe.testing.repository import Content, Repository

SIGNATURE = "X-Amz-Signature=5ec7e75161a7u7e"
"""In every signed address; tests check that it does not leak."""

_PIECE = 1 << 20


class AnsweringHub(Protocol):
    """What an origin asks of the hub that it belongs to; server.py has it."""

    token: str | None
    requests: list[Request]
    stall: threading.Event
    lock: threading.Lock

    @property
    def storage(self) -> str:
        """The address of the other origin."""
        ...

    def take(self, path: str) -> Fault:
        """The fault for a request."""
        ...

    def api(self, path: str, query: dict[str, str]) -> Answer | None:
        """The answer to a question about a repository."""
        ...

    def locate(self, path: str, query: dict[str, str]) -> tuple[Repository, str, str] | Answer | None:
        """The repository, commit and file path that an address names."""
        ...

    def file_headers(self, repository: Repository, commit: str, path: str) -> dict[str, str]:
        """What the hub says about a file."""
        ...


class Origin(ThreadingHTTPServer):
    """One address of a hub: the hub itself, or the storage that signed addresses lead to."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, hub: AnsweringHub, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.name = name

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16

    def log_message(self, format: str, *args: Any) -> None:
        """Tests want a quiet stderr."""

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    @property
    def _origin(self) -> Origin:
        return cast(Origin, self.server)

    def _serve(self, *, body: bool) -> None:
        hub, address = self._origin.hub, urlsplit(self.path)
        query = dict(parse_qsl(address.query))
        authorization = self.headers.get("Authorization")
        if self._origin.name == "hub" and hub.token not in (
            None,
            (authorization or "").removeprefix("Bearer "),
        ):
            self._answer(
                "api", Answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
            )
            return
        found = hub.locate(address.path, query)
        if isinstance(found, tuple):
            self._file(*found, hub.take(found[2]), body=body)
            return
        name = "xet" if address.path.startswith("/xet/") else "api"
        fault = hub.take(name)
        if fault.vanish:
            self.close_connection = True
        elif fault.stall_after is not None:
            self._record(name, 0, 0, 0)
            hub.stall.wait()
            self.close_connection = True
        elif fault.status is not None:
            self._answer(name, Answer(fault.status, fault.headers))
        else:
            self._answer(name, found or hub.api(address.path, query) or Answer(404))

    def _answer(self, path: str, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self._record(path, 0, 0, answer.status)  # before a client can have the answer
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _file(self, repository: Repository, commit: str, path: str, fault: Fault, *, body: bool) -> None:
        hub = self._origin.hub
        if fault.vanish:
            self.close_connection = True
            self._record(path, 0, 0, 0)
        elif fault.expired and self._origin.name == "storage":
            self._answer(path, Answer(403))
        elif fault.status is not None:
            self._answer(path, Answer(fault.status, fault.headers))
        elif (fault.redirect or fault.expired) and self._origin.name == "hub":
            glue = "&" if "?" in self.path else "?"
            location = f"{hub.storage}{self.path}{glue}{SIGNATURE}&Expires=60"
            headers = {**hub.file_headers(repository, commit, path), "Location": location}
            self._answer(path, Answer(302, headers))
        else:
            self._send(repository.commits[commit][path], repository, commit, path, fault, body=body)

    def _send(
        self, content: Content, repository: Repository, commit: str, path: str, fault: Fault, *, body: bool
    ) -> None:
        size = repository.facts(commit, path)[0]
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match and not fault.ignore_range:
            start = int(match[1])
        if start > size or (start == size and size):
            self._answer(path, Answer(416, {"Content-Range": f"bytes */{size}"}))
            return
        length = size - start
        limits = [n for n in (fault.cut_after, fault.stall_after) if n is not None]
        sendable = min([length, *limits])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        for name, value in self._origin.hub.file_headers(repository, commit, path).items():
            self.send_header(name, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(sendable if fault.announce else length))
        self.end_headers()
        self.wfile.flush()
        # The last byte of a whole body waits until the request is on record: a client that has all of it may
        # look there at once.
        held = 1 if body and sendable == length > 0 else 0
        sent = 0
        try:
            if body:
                sent = self._body(content, start, sendable - held, size, fault)
            if body and fault.stall_after is not None and sendable < length:
                self._origin.hub.stall.wait()
            held = held if sent == sendable - held else 0
        finally:
            self.close_connection = self.close_connection or sendable < length
            self._record(path, start, sent + held, 206 if start else 200)
        if held:
            self._body(content, start + sent, held, size, fault)

    def _body(self, content: Content, start: int, count: int, size: int, fault: Fault) -> int:
        """Send `count` bytes from `start` on; how many went out before the client hung up."""
        if isinstance(content, Path) and not fault.corrupt:
            return self._sendfile(content, start, count, fault.slow)
        data = bytearray(content.read_bytes() if isinstance(content, Path) else content)
        if fault.corrupt and data:
            data[-1] ^= 1
        view, sent = memoryview(data)[start : start + count], 0
        piece = _PIECE if fault.slow is None else max(1, int(fault.slow / 20))
        with contextlib.suppress(OSError):
            while sent < count:
                self.wfile.write(view[sent : sent + piece])
                self.wfile.flush()
                sent = min(count, sent + piece)
                if fault.slow is not None:
                    time.sleep(piece / fault.slow)
        return sent

    def _sendfile(self, content: Path, start: int, count: int, slow: float | None) -> int:
        sent, piece = 0, count if slow is None else max(1, int(slow / 20))
        with content.open("rb") as file, contextlib.suppress(OSError):
            while sent < count:
                left = min(piece, count - sent)
                sent += os.sendfile(self.connection.fileno(), file.fileno(), start + sent, left)
                if slow is not None:
                    time.sleep(piece / slow)
        return sent

    def _record(self, path: str, start: int, sent: int, status: int) -> None:
        hub = self._origin.hub
        token = self.headers.get("Authorization")
        with hub.lock:
            hub.requests.append(Request(path, start, sent, status, self._origin.name, token))
