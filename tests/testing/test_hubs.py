"""The loopback hubs are only worth something if the real, plain clients are content with them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantpipe.testing import origin
from quantpipe.testing.faults import Fault, busy, gated
from quantpipe.testing.hubs import HuggingFaceServer, ModelScopeServer
from quantpipe.testing.origin import SIGNATURE
from quantpipe.testing.repository import Content, Repository
from quantpipe.testing.server import HubServer

REPO = "acme/tiny"
FILES: dict[str, Content] = {
    "config.json": b'{"a": 1}',
    "sub/merges.txt": b"a b\n" * 100,
    "model.safetensors": os.urandom(300_000),
}
_PLAIN = {
    "huggingface": "from huggingface_hub import snapshot_download as fetch",
    "modelscope": "from modelscope_hub.compat import snapshot_download as fetch",
}


@pytest.fixture(params=["huggingface", "modelscope"])
def server(request: pytest.FixtureRequest) -> Iterator[HubServer]:
    if request.param == "huggingface":
        made: HubServer = HuggingFaceServer({REPO: Repository(dict(FILES), branch="main")})
    else:
        made = ModelScopeServer({REPO: Repository(dict(FILES), branch="master")})
    with made:
        yield made


def plain(server: HubServer, target: Path) -> subprocess.CompletedProcess[str]:
    """The plain client's own download, in a process of its own."""
    kind = "huggingface" if isinstance(server, HuggingFaceServer) else "modelscope"
    code = f"import sys\n{_PLAIN[kind]}\nfetch(sys.argv[1], local_dir=sys.argv[2])"
    environment = {
        **os.environ,
        **server.environment(),
        "HF_HOME": str(target / "hf"),
        "MODELSCOPE_HOME": str(target / "ms"),
        "MODELSCOPE_CACHE": str(target / "cache"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code, REPO, str(target / "got")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_plain_client_downloads(server: HubServer, tmp_path: Path) -> None:
    done = plain(server, tmp_path)
    assert done.returncode == 0, done.stderr
    for path, data in FILES.items():
        assert (tmp_path / "got" / path).read_bytes() == data


def test_plain_client_follows_redirects(server: HubServer, tmp_path: Path) -> None:
    server.faults.append(Fault(files="model.safetensors", redirect=True))
    done = plain(server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got/model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert any(request.origin == "storage" for request in server.requests)
    assert SIGNATURE


def test_plain_client_recovers_from_a_busy_hub(server: HubServer, tmp_path: Path) -> None:
    server.faults.append(busy(1, files="model.safetensors", status=429, retry_after="1"))
    assert plain(server, tmp_path).returncode == 0


def test_plain_client_is_refused(server: HubServer, tmp_path: Path) -> None:
    server.faults.append(gated())
    done = plain(server, tmp_path)
    assert done.returncode != 0
    assert "403" in done.stderr or "restricted" in done.stderr or "Gated" in done.stderr


def test_trap_that_fetch_is_for(tmp_path: Path) -> None:
    """huggingface_hub takes a corrupt body of the right size for good: that is why we hash."""
    with HuggingFaceServer({REPO: Repository(dict(FILES), branch="main")}) as server:
        server.faults.append(Fault(files="model.safetensors", corrupt=True))
        assert plain(server, tmp_path).returncode == 0
    assert (tmp_path / "got/model.safetensors").read_bytes() != FILES["model.safetensors"]


def test_faults_count(tmp_path: Path) -> None:
    fault = Fault(files="*.json", times=2)
    assert [fault.take(path) for path in ("a.json", "b.txt", "b.json", "c.json")] == [
        True,
        False,
        True,
        False,
    ]


def test_repository_moves() -> None:
    repository = Repository(dict(FILES), branch="main")
    first = repository.branches["main"]
    second = repository.commit({"config.json": b"{}"}, branch="main")
    assert repository.find("main") == second != first
    assert repository.find(first) == first
    assert repository.find("nonesuch") is None
    assert repository.facts(second, "config.json") == (
        2,
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "9e26dfeeb6e641a33dae4961196235bdb965b21b",
    )


def test_a_request_is_on_record_before_its_client_has_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a test that looks right after a fetch sees fewer bytes than were sent, on a busy host."""
    record = origin._Handler._record

    def late(self: origin._Handler, *arguments: Any) -> None:
        time.sleep(0.2)
        record(self, *arguments)

    monkeypatch.setattr(origin._Handler, "_record", late)
    with HuggingFaceServer({REPO: Repository(dict(FILES), branch="main")}) as server:
        for path, data in FILES.items():
            with urllib.request.urlopen(f"{server.endpoint}/{REPO}/resolve/main/{path}") as answer:
                got = answer.read()
            assert got == data
            assert server.sent(path) == len(got)
