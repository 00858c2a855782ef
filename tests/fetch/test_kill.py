from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantpipe.fetch.hubs.http import CHUNK_BYTES
from quantpipe.testing.faults import Fault
from quantpipe.testing.hubs import HuggingFaceServer, ModelScopeServer
from quantpipe.testing.repository import Repository
from quantpipe.testing.server import HubServer

from .conftest import model_files, shard_bytes, write_files

CHILD = Path(__file__).with_name("child.py")
REPO = "acme/tiny"
JOBS = 8
LOG = logging.getLogger(__name__)


def spawn(store: Path, hub: str, repo: str, server: HubServer | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_HOME": str(store / "hf"), "MODELSCOPE_HOME": str(store / "ms")}
    if server is not None:
        environment.update(server.environment())
    return subprocess.Popen(
        [sys.executable, str(CHILD), str(store), hub, repo, str(JOBS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    value: dict[str, Any] = json.loads(out)
    return value


def many_files(root: Path, count: int, size: int) -> dict[str, Path]:
    """`count` files of about `size` bytes in all formats that matter, as files on disk."""
    shards = count - 3
    names = [f"model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    weights = {f"layer.{i}.weight": name for i, name in enumerate(names)}
    root.mkdir(parents=True, exist_ok=True)
    found = {}
    for i, name in enumerate(names):
        varied = bytearray(shard_bytes([f"layer.{i}.weight"], size))
        varied[-(1 << 19) :] = random.Random(i).randbytes(1 << 19)
        (root / name).write_bytes(varied)
        found[name] = root / name
    small = {
        "config.json": b'{"model_type": "qwen3_moe"}',
        "tokenizer.json": b"{}" * 5000,
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": weights}).encode(),
    }
    for name, content in small.items():
        (root / name).write_bytes(content)
        found[name] = root / name
    return found


class Watcher:
    """Looks at every file that becomes visible: once is enough, since files never change afterwards."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.expected = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
        self.seen: dict[str, int] = {}

    def look(self, store: Path) -> None:
        for path in (store / "sources").rglob("*"):
            depth = len(path.relative_to(store / "sources").parts)
            if depth < 4 or ".quantpipe" in path.parts or not path.is_file():
                continue
            inode = path.stat().st_ino
            if self.seen.get(path.name) != inode:
                assert hashlib.sha256(path.read_bytes()).hexdigest() == self.expected[path.name], path.name
                self.seen[path.name] = inode


def landed(store: Path) -> int:
    """Bytes of weights in the store, growing files included."""
    total = 0
    for path in (store / "sources").rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def kill_often(
    store: Path,
    server: HubServer,
    files: dict[str, Path],
    *,
    hub: str,
    kills: int,
    seconds: float,
) -> None:
    """Kill `kills` runs at random instants, then let one finish; checks what is promised in between."""
    watcher = Watcher(files)
    dice = random.Random(7)
    total = sum(path.stat().st_size for path in files.values())
    caught = 0
    for turn in range(kills):
        before, started = landed(store), time.monotonic()
        process = spawn(store, hub, REPO, server)
        while turn % 5 and landed(store) <= before:  # every fifth one is killed wherever it is
            assert process.poll() is None
            assert time.monotonic() - started < 60
            time.sleep(0.02)
        time.sleep(dice.uniform(0.0, seconds))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
        watcher.look(store)
        caught += bool(list((store / "sources").rglob("partial/*")))
    assert caught > kills / 2, "too few were killed in the middle of a file"
    server.faults.clear()
    figures = finish(spawn(store, hub, REPO, server))
    watcher.look(store)
    assert set(watcher.seen) == set(files)
    snapshot = store / figures["outputs"]["snapshot"]
    for name, path in files.items():
        assert (snapshot / name).read_bytes() == path.read_bytes()
    time.sleep(0.1)
    again = server.sent() - total
    assert 0 <= again <= kills * JOBS * CHUNK_BYTES
    LOG.info("%d kills: %.2f MiB of %.0f MiB were sent again", kills, again / 2**20, total / 2**20)


@pytest.fixture(params=["huggingface", "modelscope"])
def hub(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[HubServer] = []

    def start(hub: str, files: dict[str, Path]) -> HubServer:
        kind = HuggingFaceServer if hub == "huggingface" else ModelScopeServer
        branch = "main" if hub == "huggingface" else "master"
        server = kind({REPO: Repository(dict(files), branch=branch)})
        server.__enter__()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def test_killed_five_times(tmp_path: Path, hub: str, serve: Any) -> None:
    files = many_files(tmp_path / "origin", 40, 2_000_000)
    server = serve(hub, files)
    server.faults.append(Fault(files="*.safetensors", slow=1_500_000.0))
    kill_often(tmp_path / "store", server, files, hub=hub, kills=5, seconds=0.8)


@pytest.mark.slow
def test_two_gigabytes_killed_twenty_times(tmp_path: Path, serve: Any) -> None:
    files = many_files(tmp_path / "origin", 40, 54_000_000)
    server = serve("huggingface", files)
    server.faults.append(Fault(files="*.safetensors", slow=12_000_000.0))
    kill_often(tmp_path / "store", server, files, hub="huggingface", kills=20, seconds=1.0)


def test_local_copy_that_is_killed_does_not_begin_again(tmp_path: Path) -> None:
    files = many_files(tmp_path / "models" / "Tiny", 20, 4_000_000)
    store, watcher = tmp_path / "store", Watcher(files)
    killed = 0
    for delay in (0.35, 0.45, 0.55, 0.65):
        process = spawn(store, "local", str(tmp_path / "models" / "Tiny"))
        time.sleep(delay)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        watcher.look(store)
    before = {path: path.stat() for path in (store / "sources").rglob("*.safetensors")}
    result = finish(spawn(store, "local", str(tmp_path / "models" / "Tiny")))
    watcher.look(store)
    assert set(watcher.seen) == set(files)
    for path, status in before.items():
        assert path.stat().st_ino == status.st_ino, "a finished file was copied again"
    finished = {path.name for path in before}
    how = {f["path"]: f["how"] for f in result["figures"]["per_file"]}
    assert all(how[name] == "kept" for name in finished)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_stalled_fetch_within_two_seconds(
    tmp_path: Path, hub: str, serve: Any, number: signal.Signals
) -> None:
    files = {p: write_files(tmp_path / "origin", {p: data}) / p for p, data in model_files().items()}
    server = serve(hub, files)
    server.faults.append(Fault(files="*.safetensors", stall_after=100))
    process = spawn(tmp_path / "store", hub, REPO, server)
    limit = time.monotonic() + 20
    while sum(f.stat().st_size for f in (tmp_path / "store").rglob("partial/*")) < 300:
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.02)
    asked = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=20)
    assert time.monotonic() - asked < 2.0
    assert process.returncode == (130 if number == signal.SIGINT else 75)
    assert not list((tmp_path / "store").rglob("lease.json")), "the lease was left over"


def test_two_processes_share_one_download(tmp_path: Path, hub: str, serve: Any) -> None:
    files = many_files(tmp_path / "origin", 8, 1_000_000)
    server = serve(hub, files)
    server.faults.append(Fault(files="*.safetensors", slow=2_000_000.0))
    processes = [spawn(tmp_path / "store", hub, REPO, server) for _ in range(2)]
    results = [finish(process) for process in processes]
    assert results[0]["outputs"] == results[1]["outputs"]
    total = sum(path.stat().st_size for path in files.values())
    assert sorted(r["figures"]["bytes_transferred"] for r in results) == [0, total]
    assert server.sent() == total


def test_lease_that_excludes_nobody_costs_work_and_no_more(
    tmp_path: Path, hub: str, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_WITHOUT_LEASE", "1")
    files = many_files(tmp_path / "origin", 12, 600_000)
    server = serve(hub, files)
    server.faults.append(Fault(files="*.safetensors", slow=3_000_000.0))
    processes = [spawn(tmp_path / "store", hub, REPO, server) for _ in range(3)]
    results = [finish(process) for process in processes]
    assert all(result["outputs"] == results[0]["outputs"] for result in results)
    snapshot = tmp_path / "store" / results[0]["outputs"]["snapshot"]
    for name, path in files.items():
        assert (snapshot / name).read_bytes() == path.read_bytes()
    assert finish(spawn(tmp_path / "store", hub, REPO, server))["figures"]["bytes_transferred"] == 0


def test_leftovers_of_a_killed_run_are_swept(tmp_path: Path, hub: str, serve: Any) -> None:
    files = many_files(tmp_path / "origin", 8, 1_000_000)
    server = serve(hub, files)
    result = finish(spawn(tmp_path / "store", hub, REPO, server))
    snapshot = tmp_path / "store" / result["outputs"]["snapshot"]
    (snapshot / ".quantpipe/partial").mkdir(exist_ok=True)
    for name in (".quantpipe/partial/0123.dead-1-2", ".tmp-abc-config.json", "stranger.bin"):
        (snapshot / name).write_bytes(b"x")
    finish(spawn(tmp_path / "store", hub, REPO, server))
    left = {path.name for path in snapshot.rglob("*") if path.is_file()}
    assert not left & {"0123.dead-1-2", ".tmp-abc-config.json", "stranger.bin"}
