"""Runs in another environment's interpreter: pytest for the files of a room, one forked child per file.

Usage: python inside.py ROOT BORROWED MODULE...

The heavy MODULEs are imported once, so that a child starts with them loaded and leaves no trace in the next.
Each line on standard input asks for a test function: {"room", "file", "base", "test", "next", "markers"}.
`test` and `next` are names, `next` null for the last test of a file; `markers` are those of each function
that the file must hold. Each line on standard output is a report, `done` after a function with the number of
its variants, `failed` for what is no report, or `ended` after a file. BORROWED is the core's pytest, for
environments that have none: only the standard library is imported before it is on the path, at its end.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

SILENT_MARKS = {"parametrize", "usefixtures"}
"""Markers that select no test."""


class Line:
    """Requests in, answers out. Unbuffered: parent and child read the same pipe in turns."""

    def __init__(self) -> None:
        self.requests = open(os.dup(0), "rb", buffering=0)  # noqa: SIM115, PTH123
        self.answers = os.dup(1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # whatever tests print goes to the log

    def read(self) -> dict[str, Any] | None:
        line = self.requests.readline()
        return json.loads(line) if line else None

    def send(self, **answer: Any) -> None:
        rest = (json.dumps(answer) + "\n").encode()
        while rest:
            rest = rest[os.write(self.answers, rest) :]


class OnRequest:
    """A pytest plugin: runs what is asked for, function by function, and sends each report."""

    def __init__(self, line: Line, request: dict[str, Any]) -> None:
        self.line = line
        self.request: dict[str, Any] | None = request
        self.config: Any = None

    def pytest_configure(self, config: Any) -> None:
        self.config = config

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.line.send(failed=str(report.longrepr))

    def pytest_runtest_logreport(self, report: Any) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        self.line.send(report=data)

    def pytest_runtestloop(self, session: Any) -> bool:
        if session.testsfailed:
            return True
        variants: dict[str, list[Any]] = {}
        for item in session.items:
            variants.setdefault(getattr(item, "originalname", item.name), []).append(item)
        assert self.request is not None
        if (found := _markers(variants)) != self.request["markers"]:
            self.line.send(failed=f"the file holds {found}, but from its text: {self.request['markers']}")
            return True
        while self.request is not None:
            items, following = variants[self.request["test"]], self.request["next"]
            after = variants[following][0] if following else None
            for item, next_item in zip(items, [*items[1:], after], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
            self.line.send(done=len(items))
            self.request = self.line.read() if following else None
        return True


def _markers(variants: dict[str, list[Any]]) -> dict[str, list[str]]:
    """Of each test function, over all its variants."""
    return {
        name: sorted({mark.name for item in items for mark in item.iter_markers()} - SILENT_MARKS)
        for name, items in variants.items()
    }


def run_file(root: str, line: Line, request: dict[str, Any]) -> int:
    """Collect one file, run what is asked for of it."""
    import pytest

    file = Path(request["file"])
    arguments = [
        str(file),
        f"--rootdir={root}",
        f"--confcutdir={request['room']}",
        f"--basetemp={request['base']}",
    ]
    # The core's settings name plugins that are not here, and make errors of other people's warnings.
    arguments += ["-c", str(Path(root) / "pyproject.toml"), "-o", "addopts=", "-o", "filterwarnings=default"]
    arguments += ["--strict-markers", "-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:faulthandler"]
    return int(pytest.main(arguments, plugins=[OnRequest(line, request)]))


def main(root: str, borrowed: str, *modules: str) -> None:
    line = Line()
    sys.path[0] = str(Path(root) / "tests")
    sys.path.insert(1, root)
    sys.path.append(borrowed)
    for module in ("pytest", *modules):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # msmodelslim collects 14 times per model: 0.3 s each with all of torch and transformers
    while request := line.read():
        child = os.fork()
        if not child:
            status = 1
            try:
                status = run_file(root, line, request)
            finally:
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        line.send(ended=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(*sys.argv[1:])
