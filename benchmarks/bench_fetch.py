"""Fetch against the plain client, on a loopback hub that is as fast as the machine.

    .venv/bin/python benchmarks/bench_fetch.py --files 16 --size-mb 128 --rounds 3

Three ways to get the same bytes, alternating, each in a fresh process and into a fresh folder:

    quantpipe   the fetch stage: every byte hashed while it streams, flushed, with receipts
    client      huggingface_hub.snapshot_download into a folder: sizes only are checked
    verified    the same, then every file read again and compared with the hub's SHA-256

The floor is one `cat` of the bytes from the server into files, flushed: what copying costs at least.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from quantpipe.testing.hubs import HuggingFaceServer
from quantpipe.testing.repository import Repository
from quantpipe.testing.server import HubServer

REPO = "acme/bench"

_QUANTPIPE = """
import sys
from pathlib import Path
from quantpipe.console import Console
from quantpipe.fetch.policy import Policy
from quantpipe.fetch.stage import FetchStage
from quantpipe.recipe.files import Prompts
from quantpipe.recipe.model import Recipe
from quantpipe.settings import Settings
from quantpipe.stage import Context
from quantpipe.store.store import Store
recipe = Recipe.model_validate({"name": "bench", "source": {"hub": "huggingface", "repo": sys.argv[1]},
                                "quantize": {"calibration": {"dataset": Prompts(Path("none"), ())}}})
store = Store(Path(sys.argv[2]))
settings = Settings(store=store.root, jobs=2)
FetchStage(Policy(jobs=int(sys.argv[3]))).run(
    Context(recipe, settings, store, Console("quiet"), store.new_run("bench")))
"""
_CLIENT = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], local_dir=sys.argv[2], max_workers=int(sys.argv[3]))
"""
_VERIFIED = (
    _CLIENT
    + """
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from huggingface_hub import HfApi
from quantpipe.store.manifest import hash_file
info = HfApi().model_info(sys.argv[1], files_metadata=True)
def check(sibling):
    if sibling.lfs is not None:
        assert hash_file(Path(sys.argv[2]) / sibling.rfilename) == sibling.lfs.sha256
with ThreadPoolExecutor(int(sys.argv[3])) as pool:
    list(pool.map(check, info.siblings))
"""
)
_FLOOR = """
import http.client, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit
import requests
endpoint = os.environ["HF_ENDPOINT"]
names = [s["rfilename"] for s in requests.get(f"{endpoint}/api/models/{sys.argv[1]}").json()["siblings"]]
Path(sys.argv[2]).mkdir()
def copy(name):
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc)
    connection.request("GET", f"/{sys.argv[1]}/resolve/main/{name}")
    answer, buffer = connection.getresponse(), memoryview(bytearray(1 << 20))
    with open(Path(sys.argv[2]) / name, "wb", buffering=0) as file:
        while count := answer.readinto(buffer):
            file.write(buffer[:count])
        os.fsync(file.fileno())
with ThreadPoolExecutor(int(sys.argv[3])) as pool:
    list(pool.map(copy, names))
"""
_SIDES = {"quantpipe": _QUANTPIPE, "client": _CLIENT, "verified": _VERIFIED, "floor": _FLOOR}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--size-mb", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=None, help="where the bytes go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        files = make_files(Path(folder) / "origin", arguments.files, arguments.size_mb << 20)
        with serving(files) as server:
            report(measure(server, Path(folder), arguments), files)


def serving(files: dict[str, Path]) -> HubServer:
    """A hub in this process: it spends its time in sendfile(2), without the GIL."""
    repository = Repository(dict(files), branch="main")
    for path in files:
        repository.facts(repository.branches["main"], path)
    return HuggingFaceServer({REPO: repository})


def make_files(root: Path, count: int, size: int) -> dict[str, Path]:
    root.mkdir()
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    files = {}
    for i in range(count):
        path = root / f"model-{i + 1:05d}-of-{count:05d}.safetensors"
        with path.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _ in range(size >> 20):
                file.write(os.urandom(1 << 20))
        files[path.name] = path
    return files


def measure(
    server: HubServer, folder: Path, arguments: argparse.Namespace
) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds by side; the sides alternate, so that load affects all of them.

    The first round warms up the caches and does not count.
    """
    seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in _SIDES}
    environment = {**os.environ, **server.environment(), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment["HF_HOME"] = str(folder / "home")
    for round_ in range(arguments.rounds + 1):
        order = list(_SIDES)[round_ % len(_SIDES) :] + list(_SIDES)[: round_ % len(_SIDES)]
        for side in order:
            target = folder / side
            os.sync()
            started, before = time.monotonic(), cpu_of_children()
            subprocess.run(
                [sys.executable, "-c", _SIDES[side], REPO, str(target), str(arguments.jobs)],
                env=environment,
                check=True,
            )
            if round_:
                seconds[side].append((time.monotonic() - started, cpu_of_children() - before))
            shutil.rmtree(target)
    return seconds


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def report(seconds: dict[str, list[tuple[float, float]]], files: dict[str, Path]) -> None:
    total = sum(path.stat().st_size for path in files.values())

    def median(side: str) -> float:
        return statistics.median(wall for wall, _ in seconds[side])

    print(f"{len(files)} files, {total / 1e9:.2f} GB, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for side, values in seconds.items():
        spread = " ".join(f"{wall:.2f}" for wall, _ in values)
        cpu = statistics.median(cpu for _, cpu in values)
        speed = total / median(side) / 1e9
        print(f"{side:10s} {median(side):6.2f} s {speed:6.2f} GB/s  CPU {cpu:5.2f} s   ({spread})")
    print(f"quantpipe / client   {median('quantpipe') / median('client'):.2f}   (at most 1.05)")
    print(f"quantpipe / verified {median('quantpipe') / median('verified'):.2f}   (below 1)")
    print(f"quantpipe / floor    {median('quantpipe') / median('floor'):.2f}")


if __name__ == "__main__":
    main()
