"""The end of a tree: from its top down, and with nothing left of it in /dev/shm or its scratch folder."""

from __future__ import annotations

import json
import mmap
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.processes import alive, eventually

from quantpipe.host import supervisor
from quantpipe.host.child import Child

SHARED_MEMORY = Path(supervisor.SHARED_MEMORY)

# A process with a semaphore, a shared memory block and a resource tracker, as any server of vLLM has them;
# then whatever the test adds. What it made is in the file that is its argument.
OWNER = """
import json, mmap, multiprocessing, os, signal, sys, time
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

def say(**values):
    Path(sys.argv[1] + ".part").write_text(json.dumps(values))
    os.rename(sys.argv[1] + ".part", sys.argv[1])

def map_file(name):
    with open("/dev/shm/" + name, "w+b") as file:
        file.truncate(4096)
        return mmap.mmap(file.fileno(), 4096)

lock = multiprocessing.get_context("spawn").Lock()
block = shared_memory.SharedMemory(create=True, size=4096)
tracker = resource_tracker._resource_tracker._pid
names = ["sem." + lock._semlock.name.lstrip("/"), block.name]
"""
WAIT = "\nsay(names=names, tracker=tracker, own=os.getpid())\ntime.sleep(600)\n"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
WORKER = """
if os.fork() == 0:  # it holds the tracker's pipe, as a worker of vLLM does
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
"""
NO_TRACKER = "os.kill(tracker, signal.SIGKILL)\n"
VLLM = """
names.append(f"{os.getpid()}-tp:0-[0-1]-cpushm_0")
held = map_file(names[-1])
"""


class Tree:
    """A supervised process and what it said of itself."""

    def __init__(self, tmp_path: Path, code: str, *, grace: float = 0.3, scratch: Path | None = None) -> None:
        self.said = tmp_path / "said"
        self.child = Child(
            [sys.executable, "-c", OWNER + code, str(self.said)],
            environment=os.environ,
            log=tmp_path / "log",
            grace=grace,
            scratch=scratch,
        )
        try:
            assert eventually(self.said.exists, 30), (tmp_path / "log").read_text()
        except BaseException:
            self.child.stop()
            raise
        self.facts = json.loads(self.said.read_text())

    def left(self) -> list[str]:
        return [name for name in self.facts["names"] if (SHARED_MEMORY / name).exists()]


@pytest.fixture(autouse=True)
def same_shared_memory(tmp_path: Path) -> Iterator[None]:
    """Whatever a failing test leaves in /dev/shm is removed."""
    yield
    for path in tmp_path.glob("said"):
        for name in json.loads(path.read_text())["names"]:
            (SHARED_MEMORY / name).unlink(missing_ok=True)


ENDS = {
    "polite": "",
    "killed": STUBBORN,
    "worker": WORKER,
    "killed-worker": STUBBORN + WORKER,
    "vllm": VLLM,
    "killed-vllm": STUBBORN + VLLM + WORKER,
    "no-tracker": NO_TRACKER,
    "killed-no-tracker": STUBBORN + NO_TRACKER,
}


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS)
def test_stop_leaves_no_semaphore_and_no_shared_memory(tmp_path: Path, code: str) -> None:
    """Also where SIGKILL is needed, where the tracker is gone, and where vLLM reported no tracker."""
    tree = Tree(tmp_path, code + WAIT)
    assert len(tree.left()) >= 2
    began = time.monotonic()
    tree.child.stop()
    assert time.monotonic() - began < supervisor.TRACKER_SECONDS  # the tracker ended by itself
    assert tree.left() == []
    assert not alive(tree.facts["tracker"])


@pytest.mark.parametrize("code", ["", VLLM], ids=["python", "vllm"])
def test_a_command_that_is_killed_from_outside_leaves_none_either(tmp_path: Path, code: str) -> None:
    tree = Tree(tmp_path, code + WAIT)
    time.sleep(1.2)  # the supervisor looks once a second, and what only the dead had mapped shows no more
    os.kill(tree.facts["own"], signal.SIGKILL)
    with tree.child:
        assert tree.child.wait(20) == 128 + signal.SIGKILL
    assert tree.left() == []


def test_a_killed_quantpipe_leaves_none_either(tmp_path: Path) -> None:
    """The supervisor does it; its scratch folder goes too."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "file").write_text("x")
    parent = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from host.test_supervisor import STUBBORN, VLLM, WAIT, WORKER, Tree
Tree(Path({str(tmp_path)!r}), STUBBORN + VLLM + WORKER + WAIT, scratch=Path({str(scratch)!r}))
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", parent], start_new_session=True)
    try:
        assert eventually((tmp_path / "said").exists, 30)
        assert (scratch / "file").exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    names = json.loads((tmp_path / "said").read_text())["names"]
    assert eventually(lambda: not any((SHARED_MEMORY / name).exists() for name in names))
    assert eventually(lambda: not scratch.exists())


def test_workers_are_left_to_the_command_until_it_is_gone(tmp_path: Path) -> None:
    """A server ends its workers in order: they must not be killed before it."""
    code = """
worker = os.fork()
if worker == 0:
    time.sleep(600)  # SIGTERM would end it
def end(*_):
    time.sleep(0.5)
    Path(sys.argv[1] + ".end").write_text(str(os.waitpid(worker, os.WNOHANG)[0] == 0))
    os._exit(0)
signal.signal(signal.SIGTERM, end)
"""
    tree = Tree(tmp_path, code + WAIT, grace=10)
    assert tree.child.stop() == 0
    assert Path(f"{tree.said}.end").read_text() == "True"


def test_a_tracker_that_does_not_end_is_killed(tmp_path: Path) -> None:
    code = """
import subprocess
command = "import time\\nif 0:\\n from multiprocessing.resource_tracker import main\\ntime.sleep(600)"
false_one = subprocess.Popen([sys.executable, "-c", command])
say(names=names, false_one=false_one.pid)
time.sleep(600)
"""
    tree = Tree(tmp_path, code)
    assert eventually(lambda: supervisor.is_tracker(tree.facts["false_one"]))
    tree.child.stop()
    assert not alive(tree.facts["false_one"])


def test_what_is_not_the_tree_s_own_stays(tmp_path: Path) -> None:
    """A name that was not random, one that existed before, and one that another process maps."""
    mark = secrets.token_hex(6)
    lock, before, shared = (f"test-lock-{mark}", f"psm_before{mark}", f"psm_shared{mark}")
    with (SHARED_MEMORY / before).open("w+b") as file:
        file.truncate(4096)
    code = f"""
names += [{lock!r}, {shared!r}]
held = [map_file({lock!r}), map_file({shared!r})]
with open("/dev/shm/{before}", "r+b") as file:
    held.append(mmap.mmap(file.fileno(), 4096))
"""
    tree = Tree(tmp_path, code + WAIT)
    try:
        with (SHARED_MEMORY / shared).open("r+b") as file, mmap.mmap(file.fileno(), 4096):
            tree.child.stop()
        assert tree.left() == [lock, shared]
        assert (SHARED_MEMORY / before).exists()
    finally:
        (SHARED_MEMORY / before).unlink()


def test_only_the_very_file_that_was_mapped_is_removed() -> None:
    """Another one of the same name belongs to another process."""
    path = SHARED_MEMORY / f"psm_test{secrets.token_hex(6)}"
    path.write_bytes(b"x")
    try:
        inode = path.stat().st_ino
        supervisor.remove_shared_memory({(path.name, inode + 1)})
        assert path.exists()
        supervisor.remove_shared_memory({(path.name, inode)})
        assert not path.exists()
    finally:
        path.unlink(missing_ok=True)


def test_the_scratch_folder_goes_with_the_child(tmp_path: Path) -> None:
    for number, command in enumerate((["true"], ["/no/such/program"])):
        scratch = tmp_path / f"scratch{number}"
        scratch.mkdir()
        (scratch / "file").write_text("x")
        with Child(command, environment=os.environ, log=tmp_path / "log", scratch=scratch) as process:
            process.wait(20)
        assert not scratch.exists()
