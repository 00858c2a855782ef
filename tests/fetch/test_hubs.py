from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import close_session

from quantpipe.console import Console
from quantpipe.errors import PreflightError, QuantpipeError, RecipeError, RetryableError, VerificationError
from quantpipe.fetch.hubs import modelscope
from quantpipe.fetch.policy import Policy
from quantpipe.fetch.stage import FetchStage
from quantpipe.stage import Context, Receipt, StageResult
from quantpipe.store.outputs import FetchFigures, FetchOutput
from quantpipe.store.receipt import FetchReceipt
from quantpipe.testing.answers import Answer, json_answer
from quantpipe.testing.faults import Fault, busy, gated
from quantpipe.testing.hubs import HuggingFaceServer, ModelScopeServer
from quantpipe.testing.origin import SIGNATURE
from quantpipe.testing.repository import Content, Repository
from quantpipe.testing.server import HubServer

from .conftest import MakeContext, model_files, read_files

FetchResult = StageResult[FetchOutput, FetchFigures]

REPO = "acme/tiny"
TOKEN = "hf_PLANTEDplantedPLANTED"
SHARD = "model-00002-of-00003.safetensors"
QUICK = Policy(
    attempts=4,
    mismatches=2,
    stall_seconds=0.4,
    floor_bytes=1,
    overall_seconds=20.0,
    backoff_seconds=0.01,
)
PATIENT = replace(QUICK, stall_seconds=30.0, overall_seconds=120.0)
"""For tests that count what was sent without a fault: a busy machine must not look like a stalled hub."""


class Bench:
    """A hub, and runs of the fetch stage against it."""

    def __init__(self, kind: str, server: HubServer, make_context: MakeContext, folder: Path) -> None:
        self.kind = kind
        self.server = server
        self.branch = "main" if kind == "huggingface" else "master"
        self.log = io.StringIO()
        self._make_context = make_context
        self._folder = folder

    @property
    def repository(self) -> Repository:
        return self.server.repositories[REPO]

    def context(self, repo: str = REPO, **source: object) -> Context:
        context = self._make_context(repo, hub=self.kind, **source)
        context.console = Console("json", stream=self.log)
        context.console.record_to(context.run.events)
        return context

    def fetch(
        self, context: Context | None = None, policy: Policy = QUICK
    ) -> tuple[FetchReceipt, FetchResult]:
        context = context or self.context()
        stage = FetchStage(policy)
        key = stage.key(context)
        result = stage.run(context)
        receipt = Receipt("fetch", key, result.outputs, result.figures, "now", 0.0)
        context.run.save(receipt)
        return receipt, result

    def snapshot(self, result: FetchResult) -> dict[str, bytes]:
        return read_files(self._folder / "store" / result.outputs.snapshot)

    def everything_written(self) -> str:
        texts = [path.read_bytes() for path in self._folder.rglob("*") if path.is_file()]
        return b"\n".join(texts).decode("utf-8", "replace") + self.log.getvalue()


@pytest.fixture
def start(
    tmp_path: Path, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Bench]]:
    """Start a loopback hub and let the real client find it."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "ms"))
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:

        def starter(kind: str, *, token: str | None = None, size: int = 200_000, **options: Any) -> Bench:
            branch = "main" if kind == "huggingface" else "master"
            repositories = {REPO: Repository(dict(model_files(size=size)), branch=branch)}
            server: HubServer
            if kind == "huggingface":
                server = HuggingFaceServer(repositories, token=token, **options)
            else:
                server = ModelScopeServer(repositories, token=token, **options)
            stack.enter_context(server)
            for name, value in server.environment().items():
                monkeypatch.setenv(name, value)
            return Bench(kind, server, make_context, tmp_path)

        yield starter


@pytest.fixture(params=["huggingface", "modelscope"])
def bench(request: pytest.FixtureRequest, start: Callable[..., Bench]) -> Bench:
    return start(request.param)


FILES = model_files(size=200_000)
TOTAL = sum(map(len, FILES.values()))


def test_correct_hub(bench: Bench) -> None:
    context = bench.context()
    receipt, result = bench.fetch(context)
    assert bench.snapshot(result) == FILES
    commit = bench.repository.branches[bench.branch]
    assert result.outputs.commit == commit
    assert result.outputs.snapshot == f"sources/{bench.kind}/acme--tiny/{commit}"
    assert result.figures.bytes == result.figures.bytes_transferred == TOTAL
    assert result.figures.retries == 0
    assert {f.path: f.bytes for f in result.figures.per_file} == {
        path: len(data) for path, data in FILES.items()
    }
    stored = json.loads(
        (context.store.absolute(result.outputs.snapshot) / ".quantpipe/manifest.json").read_text()
    )
    assert stored["complete"] is True
    assert stored["revision"] is None
    assert stored["commit"] == commit
    assert all(file["sha256"] for file in stored["files"])
    logged = [json.loads(line) for line in bench.log.getvalue().splitlines()]
    fetched = {e["path"]: e for e in logged if e["event"] == "fetched"}
    assert set(fetched) == set(FILES)
    assert all({"bytes", "bytes_transferred", "seconds", "retries"} <= set(e) for e in fetched.values())
    assert FetchStage().still_there(context, receipt)


def test_unchanged_refresh_transfers_nothing(bench: Bench) -> None:
    receipt, _ = bench.fetch()
    sent = bench.server.sent()
    context = bench.context()
    stage = FetchStage(QUICK)
    assert stage.key(context) == receipt.key
    assert stage.still_there(context, receipt)
    _, again = bench.fetch()
    assert again.figures.bytes_transferred == 0
    assert bench.server.sent() == sent


def test_moved_branch_fetches_only_what_changed(bench: Bench) -> None:
    before, first = bench.fetch()
    config = b'{"model_type": "qwen3_moe", "rope": 1}'
    changed: dict[str, Content] = {**FILES, "config.json": config}
    del changed["tokenizer.json"]
    bench.repository.commit(changed, branch=bench.branch)
    sent = bench.server.sent()
    plan = FetchStage(QUICK).plan(bench.context())
    assert plan.action == "run"
    assert plan.disk_bytes == len(config), "what can be linked needs no space"
    sent += bench.server.sent() - sent
    after, second = bench.fetch(policy=PATIENT)
    assert after.key != before.key
    assert second.outputs.manifest != first.outputs.manifest
    assert bench.snapshot(second) == changed
    assert bench.snapshot(first) == FILES
    assert bench.server.sent() - sent == len(config)


def test_branch_that_moves_between_calls(bench: Bench) -> None:
    context = bench.context()
    stage = FetchStage(QUICK)
    key = stage.key(context)
    old = bench.repository.branches[bench.branch]
    bench.repository.commit({**FILES, "config.json": b"{}"}, branch=bench.branch)
    result = stage.run(context)
    assert result.outputs.commit == old
    assert stage.key(context) == key
    assert bench.snapshot(result) == FILES


def test_truncated_body_is_continued(bench: Bench) -> None:
    bench.server.faults.append(Fault(files=SHARD, times=2, cut_after=60_000))
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES
    assert result.figures.retries == 2
    assert bench.server.sent(SHARD) == len(FILES[SHARD])
    starts = [r.start for r in bench.server.requests if r.path == SHARD]
    assert starts == [0, 60_000, 120_000]


def test_body_announced_too_short_is_continued(bench: Bench) -> None:
    bench.server.faults.append(Fault(files=SHARD, times=1, cut_after=50_000, announce=True))
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES
    assert bench.server.sent(SHARD) == len(FILES[SHARD])


def test_stalled_transfer_is_cut_off_and_continued(bench: Bench) -> None:
    bench.server.faults.append(Fault(files=SHARD, times=1, stall_after=70_000))
    started = time.monotonic()
    _, result = bench.fetch()
    assert time.monotonic() - started < 5
    assert bench.snapshot(result) == FILES
    assert [r.start for r in bench.server.requests if r.path == SHARD and r.start] == [70_000]


def test_hub_that_always_stalls(bench: Bench) -> None:
    bench.server.faults.append(Fault(files=SHARD, stall_after=0))
    with pytest.raises(RetryableError, match=SHARD) as caught:
        bench.fetch()
    assert caught.value.exit_code == 75


def test_slow_hub_is_not_a_stall(bench: Bench) -> None:
    bench.server.faults.append(Fault(files=SHARD, slow=200_000.0))
    _, result = bench.fetch()
    assert result.figures.retries == 0


def test_server_without_ranges(bench: Bench) -> None:
    bench.server.faults += [
        Fault(files=SHARD, times=1, cut_after=50_000),
        Fault(files=SHARD, times=1, ignore_range=True),
    ]
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES


@pytest.mark.parametrize("path", [SHARD, "config.json"])
def test_corrupt_body_is_deleted_and_fetched_again(bench: Bench, path: str) -> None:
    bench.server.faults.append(Fault(files=path, times=1, corrupt=True))
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES
    assert bench.server.count(path) == 2


@pytest.mark.parametrize("path", [SHARD, "config.json"])
def test_corrupt_for_ever(bench: Bench, path: str, tmp_path: Path) -> None:
    bench.server.faults.append(Fault(files=path, corrupt=True))
    with pytest.raises(VerificationError, match=path) as caught:
        bench.fetch()
    _, sha256, blob = bench.repository.facts(bench.repository.branches[bench.branch], path)
    assert sha256 in str(caught.value) or blob in str(caught.value)
    assert not [p for p in tmp_path.rglob(path) if p.is_file()], "a wrong file is visible"
    assert bench.server.count(path) == QUICK.mismatches


def test_busy_hub_is_waited_for(bench: Bench) -> None:
    bench.server.faults.append(busy(1, files=SHARD, status=429, retry_after="1"))
    bench.server.faults.append(busy(2, files="config.json", status=500))
    started = time.monotonic()
    _, result = bench.fetch()
    assert time.monotonic() - started >= 1.0
    assert bench.snapshot(result) == FILES
    assert result.figures.retries == 3


def test_broken_hub_ends_as_retryable(bench: Bench) -> None:
    bench.server.faults.append(Fault(files=SHARD, status=503))
    with pytest.raises(RetryableError, match="503"):
        bench.fetch()
    assert bench.server.count(SHARD) == QUICK.attempts


@pytest.mark.parametrize("where", ["api", SHARD])
def test_gated_repository_fails_at_once(bench: Bench, where: str) -> None:
    fault = gated()
    fault.files = where
    bench.server.faults.append(fault)
    with pytest.raises(PreflightError, match="gated") as caught:
        bench.fetch()
    assert caught.value.exit_code == 5
    assert "licence" in (caught.value.hint or "")
    assert bench.server.count(where) == 1


def test_unknown_revision(bench: Bench) -> None:
    with pytest.raises(RecipeError, match="nonesuch"):
        bench.fetch(bench.context(revision="nonesuch"))


def test_unknown_repository(bench: Bench) -> None:
    with pytest.raises((RecipeError, PreflightError), match="nobody/nothing"):
        bench.fetch(bench.context(repo="nobody/nothing"))


def test_tag_and_commit_as_revision(bench: Bench) -> None:
    commit = bench.repository.branches[bench.branch]
    bench.repository.branches["v1"] = commit
    _, by_tag = bench.fetch(bench.context(revision="v1"))
    _, by_commit = bench.fetch(bench.context(revision=commit))
    assert by_tag.outputs == by_commit.outputs
    assert by_commit.figures.bytes_transferred == 0


def test_redirect_to_a_signed_address(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    bench.server.token = TOKEN
    bench.server.faults += [
        Fault(files=SHARD, times=2, expired=True),
        Fault(files="*.safetensors", redirect=True),
    ]
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES
    stored = [r for r in bench.server.requests if r.origin == "storage"]
    assert len(stored) == 4
    assert all(request.token is None for request in stored), "the token went to another origin"
    asked = [r for r in bench.server.requests if r.origin == "hub"]
    assert all(request.token == f"Bearer {TOKEN}" for request in asked)
    seen = bench.everything_written() + "".join(capfd.readouterr())
    assert TOKEN not in seen
    assert SIGNATURE not in seen


def test_errors_hold_no_secrets(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    bench.server.faults.append(Fault(files=SHARD, redirect=True))
    bench.server._storage.server_close()
    with pytest.raises(RetryableError) as caught:
        bench.fetch()
    told = json.dumps(caught.value.to_json())
    error: BaseException | None = caught.value
    while error is not None:
        told += repr(error) + str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert SIGNATURE not in told + bench.everything_written()
    assert TOKEN not in told + bench.everything_written()


def test_wrong_token(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "MODELSCOPE_API_TOKEN"):
        monkeypatch.setenv(name, TOKEN)
    bench.server.token = "another"
    with pytest.raises(PreflightError) as caught:
        bench.fetch()
    assert "token" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_hub_that_disappears_while_fetching(bench: Bench) -> None:
    bench.server.faults.append(Fault(files=SHARD, vanish=True))
    with pytest.raises(RetryableError, match=SHARD):
        bench.fetch()
    bench.server.faults.clear()
    sent = bench.server.sent()
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES
    finished = [f for f in result.figures.per_file if f.how == "kept"]
    assert finished
    assert bench.server.sent() - sent == TOTAL - sum(f.bytes for f in finished)


def test_hub_that_is_not_there(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(RetryableError) as caught:
            bench.fetch()
    assert caught.value.exit_code == 75


def test_other_formats_are_not_fetched(bench: Bench) -> None:
    extra = {"pytorch_model.bin": b"x" * 10, "modeling_acme.py": b"print()", "onnx/model.onnx": b"x"}
    bench.repository.commit({**FILES, **extra}, branch=bench.branch)
    _, plain = bench.fetch()
    assert bench.snapshot(plain) == FILES
    sent = bench.server.sent()
    _, trusting = bench.fetch(bench.context(trust=True))
    assert bench.snapshot(trusting) == {**FILES, "modeling_acme.py": b"print()"}
    assert bench.server.sent() - sent == len(b"print()"), "equal files are linked from the other snapshot"


def test_include_and_exclude(bench: Bench) -> None:
    context = bench.context(include=["*.safetensors", "config.json"], exclude=["*-00003-*"])
    _, result = bench.fetch(context)
    assert sorted(bench.snapshot(result)) == [
        "config.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
    ]


def test_plan_asks_but_writes_nothing(bench: Bench, tmp_path: Path) -> None:
    context = bench.context()
    plan = FetchStage(QUICK).plan(context)
    assert plan.action == "run"
    assert plan.disk_bytes == plan.source_bytes == TOTAL
    assert plan.config and plan.config["model_type"] == "qwen3_moe"
    assert not (tmp_path / "store" / "sources").exists()
    bench.fetch()
    assert FetchStage(QUICK).plan(bench.context()).action == "reuse"


def test_wrong_source_fails_before_the_rest_is_fetched(bench: Bench) -> None:
    damaged: dict[str, Content] = {**FILES, "model-00001-of-00003.safetensors": FILES[SHARD][:-9]}
    bench.repository.commit(damaged, branch=bench.branch)
    with pytest.raises(VerificationError, match="model-00001") as caught:
        bench.fetch()
    assert caught.value.exit_code == 3


def test_index_that_names_a_missing_shard(bench: Bench) -> None:
    damaged: dict[str, Content] = {path: data for path, data in FILES.items() if path != SHARD}
    bench.repository.commit(damaged, branch=bench.branch)
    with pytest.raises(VerificationError, match=SHARD):
        bench.fetch()
    assert bench.server.sent() < 10_000, "the index is looked at before the shards"


def test_offline_uses_what_is_there(start: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    bench = start("huggingface")
    receipt, _ = bench.fetch()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(bench.server.requests)
    stage = FetchStage(QUICK)
    context = bench.context()
    assert stage.key(context) == receipt.key
    assert stage.still_there(context, receipt)
    assert stage.run(context).figures.bytes_transferred == 0
    assert len(bench.server.requests) == asked
    with pytest.raises(PreflightError, match="offline"):
        FetchStage(QUICK).key(bench.context(revision="v2"))


def test_modelscope_mirror_without_commits(start: Callable[..., Bench]) -> None:
    bench = start("modelscope", commits=False)
    before, first = bench.fetch()
    assert bench.snapshot(first) == FILES
    assert len(first.outputs.commit) == 64
    again, _ = bench.fetch()
    assert again.key == before.key
    bench.repository.commit({**FILES, "config.json": b"{}"}, branch="master")
    after, second = bench.fetch()
    assert after.key != before.key
    assert bench.snapshot(second)["config.json"] == b"{}"


def test_every_failure_says_what_to_do(bench: Bench) -> None:
    for fault in (gated(), Fault(files=SHARD, status=404), Fault(files=SHARD, status=400)):
        bench.server.faults[:] = [fault]
        with pytest.raises(QuantpipeError) as caught:
            bench.fetch()
        assert caught.value.hint
        assert caught.value.where


def test_gate_is_found_by_the_plan(bench: Bench) -> None:
    fault = gated()
    fault.files = "config.json"
    bench.server.faults.append(fault)
    with pytest.raises(PreflightError, match="gated"):
        FetchStage(QUICK).plan(bench.context())
    assert bench.server.sent() == 0


def test_proxy_of_the_environment(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    password = "pr0xyPassw0rd"
    monkeypatch.setenv("HTTP_PROXY", bench.server.endpoint.replace("://", f"://me:{password}@"))
    monkeypatch.setenv("http_proxy", bench.server.endpoint.replace("://", f"://me:{password}@"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, "http://hub.invalid")
    if bench.kind == "huggingface":
        close_session()
    try:
        _, result = bench.fetch()
    finally:
        close_session()
    assert bench.snapshot(result) == FILES
    assert password not in bench.everything_written()


def test_busy_while_it_is_asked(bench: Bench) -> None:
    bench.server.faults.append(busy(2, files="api", status=503))
    bench.server.faults.append(busy(1, files="api", status=429, retry_after="0"))
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES


@pytest.mark.parametrize("name", ["../../../outside", "", "main", "A" * 40])
def test_mirror_that_names_a_strange_commit(start: Callable[..., Bench], name: str, tmp_path: Path) -> None:
    bench = start("huggingface")
    repository = bench.repository
    repository.commits[name] = repository.commits[repository.branches["main"]]
    repository.branches["main"] = name
    with pytest.raises((PreflightError, RecipeError)):
        bench.fetch()
    assert not (tmp_path / "store" / "sources").exists()


def test_list_that_leads_out_of_the_snapshot(bench: Bench, tmp_path: Path) -> None:
    bench.repository.commit({**FILES, "../../../evil.json": b"{}"}, branch=bench.branch)
    with pytest.raises(VerificationError, match=r"evil\.json"):
        bench.fetch()
    assert not list(tmp_path.rglob("evil.json"))


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_bytes_that_no_hash_vouches_for(start: Callable[..., Bench], kind: str, tmp_path: Path) -> None:
    bench = start(kind, hashes=False)
    bench.server.faults.append(Fault(files=SHARD, corrupt=True))  # which nothing could find
    with pytest.raises(PreflightError, match="no hash for 6 of 6 files") as caught:
        FetchStage(QUICK).plan(bench.context())
    assert SHARD in caught.value.details
    assert "source.unverified" in (caught.value.hint or "")
    with pytest.raises(PreflightError, match="no hash"):
        bench.fetch()
    assert bench.server.sent() == 0
    assert not list((tmp_path / "store" / "sources").rglob("manifest.json"))


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_recipe_may_accept_what_no_hash_vouches_for(start: Callable[..., Bench], kind: str) -> None:
    bench = start(kind, hashes=False)
    receipt, result = bench.fetch(bench.context(unverified=True))
    assert bench.snapshot(result) == FILES
    assert set(result.figures.unverified) == set(FILES)
    assert "nothing vouches for the bytes of config.json" in bench.log.getvalue()
    assert FetchStage(QUICK).still_there(bench.context(unverified=True), receipt)
    with pytest.raises(PreflightError, match="no hash"):
        bench.fetch()  # another recipe does not inherit it


def test_a_hub_with_hashes_vouches_for_what_was_fetched_from_a_mirror(start: Callable[..., Bench]) -> None:
    bench = start("huggingface", hashes=False)
    bench.server.faults.append(Fault(files=SHARD, corrupt=True, times=1))
    _, mirrored = bench.fetch(bench.context(unverified=True))
    assert bench.snapshot(mirrored) != FILES
    bench.server._hashes = True  # type: ignore[attr-defined]
    _, result = bench.fetch()
    assert bench.snapshot(result) == FILES
    assert result.figures.unverified == ()
    assert result.figures.bytes_transferred == len(FILES[SHARD])


def test_a_list_that_is_cut_off(start: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelscope, "PAGE_ENTRIES", 8)
    bench = start("modelscope", page=8)
    more: dict[str, Content] = {f"extra/{name}/{i}.json": b"{}" for name in "abc" for i in range(4)}
    bench.repository.commit({**FILES, **more}, branch="master")
    _, result = bench.fetch()
    assert bench.snapshot(result) == {**FILES, **more}
    bench.repository.commit({**FILES, **{f"many/{i}.json": b"{}" for i in range(9)}}, branch="master")
    with pytest.raises(PreflightError, match="more files than the hub lists"):
        bench.fetch()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([1, 2], "no list of files"),
        ({"sha": "a" * 40, "siblings": [7], "Data": {"Files": [7]}}, "no list of files"),
        (
            {"sha": "a" * 40, "siblings": [{"rfilename": 7, "size": 1}], "Data": {"Files": [{"Path": 7}]}},
            "path is 7",
        ),
        (
            {
                "sha": "a" * 40,
                "siblings": [{"rfilename": "a.json", "size": "many", "blobId": "x"}],
                "Data": {"Files": [{"Path": "a.json", "Size": "many"}]},
            },
            "with the size 'many'",
        ),
        (
            {
                "sha": "a" * 40,
                "siblings": [{"rfilename": "a.json", "size": 1, "lfs": {"sha256": "../../x"}}],
                "Data": {"Files": [{"Path": "a.json", "Size": 1, "Sha256": "../../x"}]},
            },
            "with the hash '../../x'",
        ),
    ],
)
def test_a_list_that_makes_no_sense(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, answer: object, said: str
) -> None:
    monkeypatch.setattr(bench.server, "api", lambda path, query: json_answer(answer))
    with pytest.raises(PreflightError, match=said) as caught:
        bench.fetch()
    assert caught.value.hint


@pytest.mark.parametrize("text", [b"<html>log in</html>", b"[" * 5000, b'{"a": ' * 3000 + b"1" + b"}" * 3000])
def test_an_answer_of_something_else_is_asked_for_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr(bench.server, "api", lambda path, query: Answer(200, {}, text))
    with pytest.raises(RetryableError, match="did not answer in 4 attempts"):
        bench.fetch()
