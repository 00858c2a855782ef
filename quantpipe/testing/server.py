"""What the loopback hubs share: two origins, faults, tokens, ranges and the record of requests."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from quantpipe.testing.faults import Fault
from quantpipe.testing.repository import Content, Repository

SIGNATURE = "X-Amz-Signature=5ec7e75161a7u7e"
"""In every signed address; tests look for it where it must not be."""

_PIECE = 1 << 20


@dataclass(frozen=True)
class Request:
    """A request that was answered.

    Attributes:
        path: of the file in the repository, or `api`.
        start: first byte asked for.
        sent: bytes of the body that were sent.
        token: what stood in the Authorization header.
    """

    path: str
    start: int
    sent: int
    status: int
    origin: str
    token: str | None


@dataclass
class Answer:
    """An HTTP answer that is no file."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class HubServer:
    """What both hubs share: origins, faults, tokens, the record of requests. A context manager.

    Args:
        repositories: by `owner/name`.
        token: only who sends it gets anything; None lets everybody in.

    Attributes:
        faults: the first one that fits a request spoils it.
        requests: what was answered, in order.
        stall: set to let stalled answers end.
    """

    def __init__(self, repositories: dict[str, Repository], *, token: str | None = None) -> None:
        self.repositories = repositories
        self.token = token
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.stall = threading.Event()
        self.lock = threading.Lock()
        self._hub = Origin(self, "hub")
        self._storage = Origin(self, "storage")

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return f"http://127.0.0.1:{self._hub.server_port}"

    @property
    def storage(self) -> str:
        """The address of the other origin, where signed addresses lead."""
        return f"http://127.0.0.1:{self._storage.server_port}"

    def environment(self) -> dict[str, str]:
        """The variables that lead a client here."""
        raise NotImplementedError

    def sent(self, path: str | None = None) -> int:
        """Bytes of file bodies that were sent."""
        with self.lock:
            return sum(
                r.sent for r in self.requests if r.path not in ("api", "xet") and path in (None, r.path)
            )

    def count(self, path: str) -> int:
        """How often a file was asked for."""
        with self.lock:
            return sum(request.path == path and request.origin == "hub" for request in self.requests)

    def take(self, path: str) -> Fault:
        """The fault for a request; one without effect where there is none."""
        with self.lock:
            return next((fault for fault in self.faults if fault.take(path)), Fault())

    def api(self, path: str, query: dict[str, str]) -> Answer | None:
        """Answer a question about a repository; None where the path is no such question."""
        raise NotImplementedError

    def locate(self, path: str, query: dict[str, str]) -> tuple[Repository, str, str] | Answer | None:
        """The repository, commit and file path that an address names."""
        raise NotImplementedError

    def file_headers(self, repository: Repository, commit: str, path: str) -> dict[str, str]:
        """What the hub says about a file besides its length."""
        return {}

    def __enter__(self) -> HubServer:
        for origin in (self._hub, self._storage):
            threading.Thread(target=origin.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stall.set()
        for origin in (self._hub, self._storage):
            origin.shutdown()
            origin.server_close()


def json_answer(value: Any, *, status: int = 200) -> Answer:
    """An answer whose body is JSON."""
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(value).encode())


class Origin(ThreadingHTTPServer):
    """One address of a hub: the hub itself, or the storage that signed addresses lead to."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, hub: HubServer, name: str) -> None:
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
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self._record(path, 0, 0, answer.status)

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
        sent = 0
        try:
            if body:
                sent = self._body(content, start, sendable, size, fault)
            if body and fault.stall_after is not None and sendable < length:
                self._origin.hub.stall.wait()
        finally:
            self.close_connection = self.close_connection or sendable < length
            self._record(path, start, sent, 206 if start else 200)

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
