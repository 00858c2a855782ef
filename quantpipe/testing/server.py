"""What the loopback hubs share: two origins, faults, tokens and the record of requests."""

from __future__ import annotations

import threading
from types import TracebackType

from quantpipe.testing.answers import Answer, Request
from quantpipe.testing.faults import Fault
from quantpipe.testing.origin import Origin
from quantpipe.testing.repository import Repository


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
