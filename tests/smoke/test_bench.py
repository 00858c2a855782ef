"""The benchmark, its figures and its gate."""

from __future__ import annotations

import io
import itertools
import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from quantpipe.console import Console
from quantpipe.errors import SmokeError
from quantpipe.recipe.smoke import Bench, Smoke
from quantpipe.settings import Settings
from quantpipe.smoke.bench import bench_arguments, measure
from quantpipe.smoke.client import Client
from quantpipe.smoke.launchers import Process
from quantpipe.smoke.server_command import ServerCommand
from quantpipe.smoke.session import Session

RESULT = {"completed": 16, "failed": 0, "output_throughput": 100.0, "mean_ttft_ms": 3.5, "input_lens": [1]}


def bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, section: Bench, script: str, result: dict[str, Any]
) -> dict[str, Any]:
    """`measure`, with a script of ours in the place of `vllm bench serve`."""

    def command(self: Process, arguments: tuple[str, ...], path: Path, run_id: str) -> ServerCommand:
        return ServerCommand((sys.executable, "-c", script, json.dumps(result), str(path), *arguments), {})

    monkeypatch.setattr(Process, "bench_command", command)
    return measure(
        section,
        Process(Smoke(launcher="cpu"), Settings()),
        Session(Client("http://127.0.0.1:1", 10, "geheim"), "tiny"),
        checkpoint=tmp_path,
        log=tmp_path / "bench.log",
        run_id=f"test-{secrets.token_hex(6)}",
        console=Console("quiet", stream=io.StringIO()),
    )


WRITES = (
    "import os, sys; assert os.environ['OPENAI_API_KEY'] == 'geheim'; print('measured'); "
    "open(sys.argv[2], 'w').write(sys.argv[1])"
)


@pytest.mark.parametrize("baseline", [None, 100.0, 103.0])
def test_a_figure_that_reaches_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baseline: float | None
) -> None:
    figures = bench(tmp_path, monkeypatch, Bench(baseline=baseline), WRITES, RESULT)
    assert figures["output_throughput"] == 100.0 and figures["mean_ttft_ms"] == 3.5
    assert figures.get("baseline") == baseline
    assert "input_lens" not in figures
    assert "measured" in (tmp_path / "bench.log").read_text()


@pytest.mark.parametrize(
    ("section", "script", "result", "said"),
    [
        (Bench(baseline=104), WRITES, RESULT, r"100\.0 output tokens per second, 100\.9 are required"),
        (Bench(baseline=101, factor=1), WRITES, RESULT, "are required"),
        (Bench(), WRITES, {**RESULT, "failed": 2, "completed": 14}, "14 of 16"),
        (Bench(num_prompts=20), WRITES, RESULT, "16 of 20"),
        (Bench(), WRITES, {"completed": 16}, "wrote no result"),
        (Bench(), "pass", RESULT, "wrote no result"),
        (Bench(), "import sys; print('why'); sys.exit(3)", RESULT, "ended with status 3"),
        (Bench(timeout=0.5), "import time; time.sleep(60)", RESULT, "did not finish within 0 s"),
    ],
)
def test_a_benchmark_that_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    section: Bench,
    script: str,
    result: dict[str, Any],
    said: str,
) -> None:
    began = time.monotonic()
    with pytest.raises(SmokeError, match=said) as caught:
        bench(tmp_path, monkeypatch, section, script, result)
    assert caught.value.hint
    assert time.monotonic() - began < 20


def test_the_benchmark_s_options() -> None:
    section = Bench(num_prompts=3, input_len=5, output_len=7, concurrency=2)
    arguments = bench_arguments(section, Session(Client("http://127.0.0.1:9", 1), "tiny"), Path("/x"))
    assert arguments[:2] == ("bench", "serve")
    pairs = dict(itertools.pairwise(arguments))
    assert pairs["--base-url"] == "http://127.0.0.1:9"
    assert pairs["--served-model-name"] == "tiny" and pairs["--model"] == "/x"
    assert pairs["--dataset-name"] == "random"
    assert (pairs["--num-prompts"], pairs["--random-input-len"], pairs["--random-output-len"]) == (
        "3",
        "5",
        "7",
    )
    assert pairs["--max-concurrency"] == "2"


@pytest.mark.parametrize(
    ("value", "section"), [(True, Bench()), (False, None), ({"baseline": 3}, Bench(baseline=3))]
)
def test_a_switch_or_a_section(value: Any, section: Bench | None) -> None:
    assert Smoke(bench=value).bench == section
