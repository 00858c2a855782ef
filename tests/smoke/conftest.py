"""A fake server, started in one of its modes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from quantpipe.errors import SmokeError
from quantpipe.smoke.client import Client
from quantpipe.smoke.server import choose_port
from quantpipe.smoke.session import Session

FAKE_SERVER = Path(__file__).with_name("fake_server.py")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """Starts the fake in a mode; a session with it."""
    started = []

    def start(mode: str, *more: str) -> Session:
        port = choose_port(0)
        with (tmp_path / "log").open("wb") as log:
            command = [sys.executable, str(FAKE_SERVER), str(port), mode, *more]
            started.append(subprocess.Popen(command, stdout=log, stderr=log))
        client = Client(f"http://127.0.0.1:{port}", 10)
        deadline = time.monotonic() + 20
        while True:
            try:
                client.json("/health")
            except SmokeError:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.05)
            else:
                return Session(client, "tiny")

    yield start
    for process in started:
        process.kill()
        process.wait()
