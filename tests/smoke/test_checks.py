"""What any server has to do, against the fake; client, reference answers, speed."""

from __future__ import annotations

import io
import itertools
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quantpipe.console import Console
from quantpipe.errors import SmokeError
from quantpipe.recipe.probes import Probe
from quantpipe.recipe.smoke import Bench, Smoke
from quantpipe.settings import Settings
from quantpipe.smoke import conformance
from quantpipe.smoke.bench import bench_arguments, measure
from quantpipe.smoke.client import Client
from quantpipe.smoke.effective import effective_quantization
from quantpipe.smoke.launchers import Process
from quantpipe.smoke.probes import ask
from quantpipe.smoke.reference import compare, load_reference
from quantpipe.smoke.server import Server, choose_port
from quantpipe.smoke.server_command import ServerCommand
from quantpipe.smoke.session import Session

FAKE_SERVER = Path(__file__).with_name("fake_server.py")
ONE = Probe(prompt="One", max_tokens=4)
CHAT = Probe(prompt="Two", max_tokens=4, chat=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[[str], Session]]:
    """Starts the fake in a mode; a client to it."""
    started = []

    def start(mode: str) -> Session:
        port = choose_port(0)
        with (tmp_path / "log").open("wb") as log:
            command = [sys.executable, str(FAKE_SERVER), str(port), mode]
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


@pytest.mark.parametrize("probe", [ONE, CHAT])
def test_a_sound_server_repeats_itself_and_streams(server: Callable[[str], Session], probe: Probe) -> None:
    check = conformance.repeats(server("ready"), probe, "name")
    assert check.answer == {"text": f" after {probe.prompt} in 4", "pieces": 2}
    assert check.request["max_tokens"] == 4
    assert check.seconds > 0


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("fickle", "two answers: ' answer 1' and ' answer 2'"),
        ("lossy", "streamed, the answer is"),
        ("unended", r"no valid answer: .*without \[DONE\]"),
    ],
)
@pytest.mark.parametrize("probe", [ONE, CHAT])
def test_a_server_that_does_not(server: Callable[[str], Session], mode: str, said: str, probe: Probe) -> None:
    with pytest.raises(SmokeError, match=said) as caught:
        conformance.repeats(server(mode), probe, "name")
    assert caught.value.hint


def test_a_batch_is_answered_all_of_it(server: Callable[[str], Session]) -> None:
    check = conformance.batch(server("ready"), (ONE, CHAT), 9)
    assert check.answer == [f" after {'One' if n % 2 == 0 else 'Two'} in 16" for n in range(9)]


def test_a_batch_of_which_some_fail(server: Callable[[str], Session]) -> None:
    """A server that takes one request at a time: asked one by one it would pass."""
    with pytest.raises(SmokeError, match=r"of 6 concurrent requests failed: HTTP 429") as caught:
        conformance.batch(server("crowded"), (ONE,), 6)
    assert 1 <= len(caught.value.details) < 6


def test_ctrl_c_during_a_batch_does_not_wait_for_its_answers(
    server: Callable[[str], Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        def put(self, item: object) -> None: ...

        def get(self) -> object:
            raise KeyboardInterrupt

    client = server("slow")
    monkeypatch.setattr(conformance.queue, "SimpleQueue", Interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        conformance.batch(client, (ONE,), 2)
    assert time.monotonic() - began < 5


def test_finite_logprobs(server: Callable[[str], Session]) -> None:
    assert conformance.finite(server("ready"), ONE).answer["token_logprobs"] == [-0.25] * 3


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("nan", "not finite"),
        ("floor", "not finite"),
        ("positive", "not finite"),
        ("no-logprobs", "no log-prob"),
    ],
)
def test_logprobs_that_are_none(server: Callable[[str], Session], mode: str, said: str) -> None:
    with pytest.raises(SmokeError, match=said):
        conformance.finite(server(mode), ONE)


def test_an_answer_has_to_stop_where_the_recipe_says_so(server: Callable[[str], Session]) -> None:
    probe = ONE.model_copy(update={"must_stop": True})
    assert ask(server("ready"), probe).finish_reason == "stop"
    with pytest.raises(SmokeError, match="not complete after 4 tokens"):
        ask(server("long"), probe)


def test_any_script_may_be_allowed(server: Callable[[str], Session]) -> None:
    client = server("script")
    with pytest.raises(SmokeError, match="another script"):
        ask(client, ONE)
    assert ask(client, ONE.model_copy(update={"any_script": True})).fault is None


def test_samples() -> None:
    text, chat = conformance.samples((CHAT, ONE))
    assert (text.prompt, text.chat, chat.prompt, chat.chat) == ("One", False, "Two", True)
    text, chat = conformance.samples(())
    assert text.prompt == chat.prompt == conformance.DEFAULT_PROMPT and chat.chat


# -- the client ---------------------------------------------------------------------------------------


def test_an_answer_that_drips_is_given_up_in_time(server: Callable[[str], Session]) -> None:
    """Each byte comes soon, the whole never does."""
    client = server("drips").client
    began = time.monotonic()
    with pytest.raises(SmokeError, match="no answer within 1 s"):
        Client(client.url, 1).json("/v1/completions", {})
    assert time.monotonic() - began < 5


def test_a_key_is_sent_and_never_shown(server: Callable[[str], Session]) -> None:
    client = server("locked").client
    with pytest.raises(SmokeError, match="HTTP 401") as caught:
        client.json("/v1/models")
    assert "VLLM_API_KEY" in (caught.value.hint or "")
    key = Client(client.url, 10, "geheim")
    assert key.json("/v1/models")["data"]
    assert "geheim" not in repr(key)


# -- the quantization in effect -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "(Worker pid=1) INFO 11-23 20:24:36 [x.py:87] quantpipe: quantization=ascend in effect (CPU)",
        "(EngineCore pid=9) INFO 11-23 19:00:00 [x.py:1] Using the vLLM Ascend modelslim Quantization now!",
        "INFO 02-03 11:22:33 [quant_config.py:88] Using the vLLM Ascend Quantization now!",
    ],
)
def test_the_server_s_own_word_counts(tmp_path: Path, line: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"Using the vLLM Ascend modelslim Quantization now!\n{line}\n")
    start = log.read_text().index("\n") + 1
    nobody = Client("http://127.0.0.1:9", 1)
    assert effective_quantization(Server("u", log, start), nobody) == line
    with pytest.raises(SmokeError, match="without `--quantization ascend` in effect"):
        effective_quantization(Server("u", log, start + len(line)), nobody)


@pytest.mark.parametrize("mode", ["told", "told-as-text"])
def test_a_server_whose_log_is_elsewhere_may_tell_its_configuration(
    server: Callable[[str], Session], mode: str
) -> None:
    assert effective_quantization(Server("u"), server(mode).client) == "/server_info: quantization=ascend"


@pytest.mark.parametrize("mode", ["ready", "told-nothing"])
def test_or_it_may_not(server: Callable[[str], Session], mode: str) -> None:
    assert effective_quantization(Server("u"), server(mode).client) is None


@pytest.mark.parametrize("mode", ["told-none", "told-none-as-text"])
def test_a_configuration_without_quantization_fails(server: Callable[[str], Session], mode: str) -> None:
    with pytest.raises(SmokeError, match="runs with quantization None and not `ascend`"):
        effective_quantization(Server("u"), server(mode).client)


# -- reference answers --------------------------------------------------------------------------------


def test_reference_answers(server: Callable[[str], Session], tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    assert load_reference(path) == []
    path.write_text(json.dumps([{"prompt": "One", "token_logprobs": [None, -0.25, -0.5]}]))
    client = server("ready")
    check = compare(client, load_reference(path), 0.2)
    assert check.answer == {"tokens": 2, "mean_difference": 0.125}
    with pytest.raises(SmokeError, match=r"differ from the reference by 0\.125"):
        compare(client, load_reference(path), 0.1)
    path.write_text(json.dumps([{"prompt": "One", "token_logprobs": [None] + [-0.25] * 5}]))
    with pytest.raises(SmokeError, match="has 3 tokens here and 6"):
        compare(client, load_reference(path), 1)


def test_a_number_that_is_none_is_no_agreement(server: Callable[[str], Session]) -> None:
    reference = [{"prompt": "One", "token_logprobs": [None, -0.25, -0.5]}]
    with pytest.raises(SmokeError, match="by nan"):
        compare(server("nan"), reference, 9)


@pytest.mark.parametrize("text", ["{", "3", '[{"prompt": 3, "token_logprobs": []}]', '[{"prompt": "x"}]'])
def test_a_reference_of_another_form(tmp_path: Path, text: str) -> None:
    (tmp_path / "reference.json").write_text(text)
    with pytest.raises(SmokeError, match="not reference answers"):
        load_reference(tmp_path / "reference.json")


# -- the speed figure ---------------------------------------------------------------------------------

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
        (Bench(), WRITES, {"completed": 16}, "left no result"),
        (Bench(), "pass", RESULT, "left no result"),
        (Bench(), "import sys; print('why'); sys.exit(3)", RESULT, "ended with status 3"),
        (Bench(timeout=0.5), "import time; time.sleep(60)", RESULT, "not done after 0 s"),
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
