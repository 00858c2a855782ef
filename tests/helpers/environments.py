"""A pytest plugin: the tests of some rooms run in the interpreter of another environment, and report here.

The core has neither torch nor vllm. A file of such a room is not imported here: its test functions are read
from its text, and each becomes an item that is run by `inside.py` in the other interpreter, whose reports
(outcome, traceback, output, duration) are passed on as the item's own. The interpreter is started once per
session and worker of xdist, when the first such test runs. A parametrized function is one item with a report
for each of its variants, because xdist knows the items by name. No test is lost between the two: a file holds
plain functions only, the other pytest must find the same functions with the same markers, and each variant
must report its end. Nothing is installed in the other environment: it borrows the core's pytest, which is
pure Python.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from helpers.commands import ROOT
from helpers.inside import SILENT_MARKS

BORROWED = (
    "pytest",
    "_pytest",
    "py",
    "pluggy",
    "iniconfig",
    "packaging",
    "pygments",
    "exceptiongroup",
    "tomli",
)
"""pytest and what it needs; the last two on Python 3.10 only."""

INSIDE = Path(__file__).with_name("inside.py")
SILENCE = 900.0
"""Seconds without a report after which the other interpreter is given up."""


@dataclass(frozen=True)
class Environment:
    """Another environment, and the room of tests that runs in it.

    Attributes:
        marker: of all tests of the room.
        variable: names the interpreter; without it, the one of `folder`.
        modules: imported once, before the first test.
        variables: set for the tests; PYTHON* is not passed on.
    """

    room: str
    marker: str
    variable: str
    folder: str
    modules: tuple[str, ...]
    variables: dict[str, str]

    def python(self) -> Path:
        """The interpreter. The test is skipped where there is none."""
        python = Path(os.environ.get(self.variable) or ROOT / self.folder / "bin" / "python")
        if not python.is_file():
            pytest.skip(f"no interpreter at {python}: run `make setup`, or set {self.variable}")
        return python


QUANTIZE = Environment(
    "tests/quantize/worker",
    "quantize_env",
    "QUANTPIPE_QUANTIZE_PYTHON",
    ".venv-quantize",
    (
        "torch",
        "quantpipe.quantize.worker.stock",
        "quantpipe.quantize.worker.streaming.engine",
        "transformers.models.qwen3_moe.modeling_qwen3_moe",
        "transformers.models.qwen3.modeling_qwen3",
        "transformers.models.auto.modeling_auto",
    ),
    {
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_DYNAMIC": "FALSE",
        "HF_HUB_OFFLINE": "1",
        "TORCH_DEVICE_BACKEND_AUTOLOAD": "0",
    },
)
# Without these, vLLM on a CPU takes all memory, binds to NUMA nodes, or calls home.
SERVE = Environment(
    "tests/vllm_ascend_cpu",
    "serve_env",
    "QUANTPIPE_SERVE_PYTHON",
    ".venv-serve",
    ("torch", "vllm"),
    {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    },
)
ENVIRONMENTS = (QUANTIZE, SERVE)


class SilentError(Exception):
    """The other interpreter died, or said nothing for too long."""


class Interpreter:
    """A running `inside.py`. One for each environment; a new one after a death."""

    running: ClassVar[dict[str, Interpreter]] = {}

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log.txt"
        self.files = 0
        self.said = b""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        arguments = [str(ROOT), str(_borrowed(folder)), *environment.modules]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(environment.python()), str(INSIDE), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**variables, **environment.variables},
                cwd=ROOT,
            )

    @classmethod
    def of(cls, environment: Environment) -> Interpreter:
        """The running one, or a new one."""
        found = cls.running.get(environment.room)
        if found is None:
            folder = Path(tempfile.mkdtemp(prefix=f"quantpipe-{environment.marker}-"))
            found = cls.running[environment.room] = cls(environment, folder)
        return found

    def run(self, item: Elsewhere, following: Elsewhere | None) -> Iterator[dict[str, Any]]:
        """Answers about one test function until it is done, and until its file is ended if that is its last.

        Raises:
            SilentError: the child died or hangs. The message holds the end of the log.
        """
        assert self.process.stdin is not None
        if not item.continues:
            self.files += 1
        request = {
            "room": str(ROOT / item.environment.room),
            "file": str(item.path),
            "base": str(self.folder / str(self.files)),
            "test": item.name,
            "next": following.name if following else None,
            "markers": item.file_markers(),
        }
        self.process.stdin.write((json.dumps(request) + "\n").encode())
        self.process.stdin.flush()
        finished = failed = False
        while not finished or following is None:
            answer = self._read()
            if "ended" in answer:
                if not finished and not failed:
                    raise SilentError(f"the child ended with {answer['ended']}\n{self._tail()}")
                if following:
                    following.continues = False
                return
            finished = finished or "done" in answer
            failed = failed or "failed" in answer
            yield answer

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while b"\n" not in self.said:
            if not select.select([self.process.stdout], [], [], SILENCE)[0]:
                raise SilentError(f"no report in {SILENCE:g} s\n{self._tail()}")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise SilentError(f"the interpreter ended with {self.process.wait()}\n{self._tail()}")
            self.said += data
        line, _, self.said = self.said.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-8000:]

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def _borrowed(folder: Path) -> Path:
    """A folder with links to the core's pytest and what it needs."""
    target = folder / "borrowed"
    target.mkdir(exist_ok=True)
    for name in BORROWED:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            path = Path(found.origin)
            source = path.parent if path.name == "__init__.py" else path
            (target / source.name).symlink_to(source)
    return target


class ElsewhereFile(pytest.File):
    """A file of tests that another interpreter runs."""

    environment: Environment
    markers: dict[str, list[str]]
    """Of each test function, as its text says."""

    def collect(self) -> Iterator[pytest.Item]:
        """One item for each test function, in order."""
        tree = ast.parse(self.path.read_text("utf-8"))
        common = [name for node in tree.body if isinstance(node, ast.Assign) for name in _pytestmark(node)]
        self.markers = {}
        for node in _functions(tree, self.path):
            item = Elsewhere.from_parent(self, name=node.name)
            item.line = node.lineno - 1
            own = [name for decorator in node.decorator_list for name in _marks(decorator)]
            self.markers[node.name] = sorted({*common, *own})
            for name in (self.environment.marker, *common, *own):
                item.add_marker(name)
            yield item


def _functions(tree: ast.Module, path: Path) -> list[ast.FunctionDef]:
    """The test functions. Anything else that is named as a test would be lost, so it is an error."""
    found = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    named = [
        node for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith(("test_", "Test"))
    ]
    if not found or len(named) != len(found) or len({node.name for node in found}) != len(found):
        raise pytest.Collector.CollectError(
            f"{path}: tests of another environment are plain functions at the top of the file, each with a "
            f"name of its own; here {len(found)} of {len(named)} are"
        )
    return found


def _pytestmark(node: ast.Assign) -> list[str]:
    named = any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
    return _marks(node.value) if named else []


def _marks(node: ast.expr) -> list[str]:
    """The plain markers in an expression: `slow` of `pytest.mark.slow`."""
    return [
        part.attr
        for part in ast.walk(node)
        if isinstance(part, ast.Attribute) and ast.unparse(part.value) == "pytest.mark"
        if part.attr not in SILENT_MARKS
    ]


class Elsewhere(pytest.Item):
    """A test function that another interpreter runs."""

    line = 0
    continues = False  # whether the other interpreter has this item's file open

    @property
    def environment(self) -> Environment:
        """Where it runs."""
        assert isinstance(self.parent, ElsewhereFile)
        return self.parent.environment

    def file_markers(self) -> dict[str, list[str]]:
        """What the other pytest must find in the file: all test functions with their markers."""
        assert isinstance(self.parent, ElsewhereFile)
        return self.parent.markers

    def runtest(self) -> None:
        """Only where there is no interpreter: then it is skipped."""
        self.environment.python()

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where it is."""
        return self.path, self.line, self.name

    def reports(self, following: Elsewhere | None) -> Iterator[pytest.TestReport]:
        """Run it. Every report has this item's id, as xdist expects; its location names the variant."""
        ends = 0
        try:
            for answer in Interpreter.of(self.environment).run(self, following):
                if "failed" in answer:
                    yield self.failure(answer["failed"])
                elif "done" in answer and answer["done"] != ends:
                    yield self.failure(f"{ends} of {answer['done']} variants have reported their end")
                elif "report" in answer:
                    ends += answer["report"]["when"] == "teardown"
                    report = self.config.hook.pytest_report_from_serializable(
                        config=self.config, data=answer["report"]
                    )
                    report.nodeid = self.nodeid
                    yield report
        except (SilentError, OSError) as error:
            if gone := Interpreter.running.pop(self.environment.room, None):
                gone.process.kill()
                gone.close()
            if following:
                following.continues = False
            yield self.failure(str(error))

    def failure(self, text: str) -> pytest.TestReport:
        """A report of a failure that the other pytest could not report."""
        return pytest.TestReport(self.nodeid, self.location, {}, "failed", text, "call")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> ElsewhereFile | None:
    """Files directly in an environment's room."""
    for environment in ENVIRONMENTS:
        if (ROOT / environment.room) in module_path.parents and module_path.name.startswith("test_"):
            file = ElsewhereFile.from_parent(parent, path=module_path)
            file.environment = environment
            return file
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run an item elsewhere and pass its reports on."""
    if not isinstance(item, Elsewhere):
        return None
    try:
        item.environment.python()
    except pytest.skip.Exception:
        return None
    following = nextitem if isinstance(nextitem, Elsewhere) and nextitem.path == item.path else None
    if following:
        following.continues = True
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in item.reports(following):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # Fixtures of the core's own tests end when another file begins, as they do for its own items.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def pytest_sessionfinish() -> None:
    """End the interpreters."""
    for interpreter in Interpreter.running.values():
        interpreter.close()
    Interpreter.running.clear()
    sys.stdout.flush()
