"""The serving environment's interpreter, and how to run check scripts in it.

The core's pytest has neither torch nor vllm, so what needs them is in scripts `check_*.py` whose
functions `check_*` are the tests. A vLLM import costs seconds: one process runs a whole script.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


@pytest.fixture(scope="session")
def serve_python() -> str:
    """The interpreter with vllm: QUANTPIPE_SERVE_PYTHON, or the one that `make setup` builds."""
    named = os.environ.get("QUANTPIPE_SERVE_PYTHON")
    if named:
        return named
    python = REPOSITORY / ".venv-serve" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no serving environment: {python} is missing and QUANTPIPE_SERVE_PYTHON is not set")
    return str(python)


@pytest.fixture
def run_checks(serve_python: str, tmp_path: Path) -> Callable[..., None]:
    """`run_checks("check_x.py", *names)`: run the named checks, or all, in a serving process."""

    def run(script: str, *names: str, timeout: float = 300) -> None:
        report = tmp_path / "report.json"
        process = subprocess.run(
            [serve_python, "run_checks.py", script, str(tmp_path), str(report), *names],
            cwd=HERE,
            env=serving_environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        output = f"{process.stdout[-4000:]}\n{process.stderr[-12000:]}"
        assert report.exists(), f"exit status {process.returncode}\n{output}"
        results = json.loads(report.read_text())
        assert results, f"{script} has no checks"
        failed = {name: trace for name, trace in results.items() if trace}
        assert not failed, "\n".join(f"--- {name}\n{trace}" for name, trace in failed.items())

    return run


def serving_environment() -> dict[str, str]:
    """The variables without which vLLM on a CPU takes all memory, binds to NUMA nodes or calls home."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": "",
    }
