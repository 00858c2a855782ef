"""The public API: its names, its signatures, and the examples of docs/python.md."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.golden import DIGEST, ROOT, golden_recipe, golden_store

import quantpipe

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

SIGNATURES = {
    "load_recipe": "(recipe, environment=environ)",
    "plan": "(recipe, settings=None, console=None)",
    "run": "(recipe, settings=None, console=None, selection=Selection)",
    "verify": (
        "(path, *, recipe=None, against=None, tp=None, dp=None, ep=False, target=None, device_memory=None, "
        "deep=False, hashes=True, write_manifest=False, jobs=2, console=None)"
    ),
    "Selection": "(first=None, last=None, force=None, deep=False)",
    "Console": "(mode='human', *, verbose=False, stream=None)",
}
ERRORS = {
    "QuantpipeError": 1,
    "QuantizeError": 1,
    "UsageError": 2,
    "RecipeError": 2,
    "VerificationError": 3,
    "SmokeError": 4,
    "PreflightError": 5,
    "StorageFullError": 5,
    "LeaseHeldError": 11,
    "RetryableError": 75,
    "InterruptedRunError": 130,
}
RESULTS = {"Plan", "Recipe", "Report", "RunResult"}
SETTINGS = [
    "store",
    "quantize_python",
    "serve_python",
    "jobs",
    "stall_seconds",
    "port",
    "fetch_attempts",
    "fetch_stall_seconds",
    "fetch_jobs",
    "pass_environment",
    "api_key_urls",
]
NAMES = {"Settings", *SIGNATURES, *ERRORS, *RESULTS}


def test_the_names() -> None:
    assert set(quantpipe.__all__) == NAMES
    assert set(quantpipe.__all__) <= set(dir(quantpipe))
    for name in quantpipe.__all__:
        assert getattr(quantpipe, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        quantpipe.nonsense  # noqa: B018


def test_every_name_is_on_the_page() -> None:
    for name in NAMES:
        assert re.search(rf"`{name}\b", PAGE), name


def shape(function: Any) -> str:
    """Names, kinds and defaults; a default that is an object by its type."""
    parameters = inspect.signature(function).parameters.values()
    shown = []
    for parameter in parameters:
        default = parameter.default
        if default is parameter.empty:
            value = ""
        elif default is None or isinstance(default, bool | int | str):
            value = f"={default!r}"
        else:
            value = "=environ" if "viron" in type(default).__name__ else f"={type(default).__name__}"
        shown.append(parameter.name + value)
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown:
            shown.insert(-1, "*")
    return f"({', '.join(shown)})"


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name: str) -> None:
    from quantpipe.verify import standalone

    function = standalone.verify if name == "verify" else getattr(quantpipe, name)
    assert shape(function) == SIGNATURES[name]


def test_the_settings() -> None:
    assert list(quantpipe.Settings.model_fields) == SETTINGS


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_tree_with_their_exit_codes(name: str) -> None:
    error = getattr(quantpipe, name)
    assert issubclass(error, quantpipe.QuantpipeError)
    assert error.exit_code == ERRORS[name]
    assert re.search(rf"`{name}`[^|]*\|[^|]*\b{ERRORS[name]}\b", PAGE) or name == "StorageFullError"


def test_importing_the_package_imports_nothing_else() -> None:
    """It is loaded in the worker's and the server's environments."""
    code = (
        "import sys; before = set(sys.modules); import quantpipe\n"
        "added = set(sys.modules) - before\n"
        "print(sorted(m for m in added if m.split('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['quantpipe']"


@pytest.mark.parametrize("first", ["import quantpipe.verify.report", "import quantpipe.pipeline", "pass"])
def test_verify_is_callable_whatever_was_imported_first(first: str, tmp_path: Path) -> None:
    code = (
        f"{first}\nimport quantpipe\nfrom quantpipe import UsageError, verify\n"
        "assert verify is quantpipe.verify\n"
        "try: verify('nowhere')\n"
        "except UsageError as error: print(error.what)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "no such directory"


def test_type_checkers_see_the_functions(tmp_path: Path) -> None:
    script = tmp_path / "user.py"
    script.write_text(
        "from pathlib import Path\n"
        "import quantpipe\n"
        "from quantpipe import Settings, load_recipe, plan, run, verify\n"
        "ok: bool = verify('x', deep=True).ok\n"
        "also: bool = quantpipe.verify(Path('x')).ok\n"
        "stages = plan(load_recipe('x'), Settings(store=Path('s'))).stages\n"
        "digest: str = run(load_recipe('x')).receipts.publish.outputs.digest\n"
        "verify('x', nonsense=1)\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path)]
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, check=False, cwd=ROOT)
    [wrong] = [line for line in done.stdout.splitlines() if "user.py" in line and "error:" in line]
    assert 'user.py:8: error: Unexpected keyword argument "nonsense"' in wrong


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_of_the_page_in_a_thread_of_a_notebook(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Up to date on the golden store; nothing is printed but what the example prints."""
    golden_store(tmp_path)
    golden_recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    failures: list[BaseException] = []

    def cell() -> None:
        try:
            exec(compile(example, "docs/python.md", "exec"), {"__name__": "__main__"})
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=cell)
    thread.start()
    thread.join()
    assert failures == []
    said = capfd.readouterr()
    assert said.err == ""
    assert len(said.out.splitlines()) == example.count("\nprint(")
    if "run(" in example:
        assert DIGEST[:12] in said.out
