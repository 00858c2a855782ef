from __future__ import annotations

import errno
import io
import json
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest
from helpers.receipts import MANIFEST, quantize_receipt

from quantpipe.console import Console
from quantpipe.errors import (
    InterruptedRunError,
    PreflightError,
    QuantizeError,
    RetryableError,
    VerificationError,
)
from quantpipe.recipe.load import load_recipe
from quantpipe.recipe.model import Recipe
from quantpipe.store import runs
from quantpipe.store.receipt import QuantizeReceipt, RunDirectory
from quantpipe.store.store import Store


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "model").mkdir()
    (tmp_path / "prompts.json").write_text('["a prompt"]')
    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\nsource: {hub: local, repo: model}\nquantize: {calibration: {dataset: prompts.json}}\n"
    )
    return load_recipe(tmp_path / "tiny.yaml")


def console() -> Console:
    return Console("human", stream=io.StringIO())


def work(store: Store, run: RunDirectory, content: str = "weights") -> QuantizeReceipt:
    """What a finished quantize stage leaves."""
    run.staging.mkdir()
    (run.staging / "model.safetensors").write_text(content)
    receipt = quantize_receipt(store.relative(run.staging / "checkpoint"))
    run.save(receipt)
    return receipt


def staged(run: RunDirectory) -> str:
    return (run.staging / "model.safetensors").read_text()


def test_the_first_run_begins_with_nothing(store: Store, recipe: Recipe) -> None:
    run, receipts = runs.begin(store, recipe)
    assert receipts == {}
    state = run.state()
    assert state["status"] == "running"
    assert state["recipe"] == "tiny"
    assert state["digest"] == recipe.digest()


@pytest.mark.parametrize("status", ["failed", "interrupted", "running", "stopped"])
def test_an_unfinished_run_is_taken_over(store: Store, recipe: Recipe, status: str) -> None:
    first, _ = runs.begin(store, recipe)
    work(store, first)
    first.update_state(status=status)
    second, receipts = runs.begin(store, recipe)
    assert staged(second) == "weights"
    assert not first.staging.exists()
    assert receipts.quantize.outputs.checkpoint == store.relative(second.staging / "checkpoint")
    assert receipts.quantize.outputs.manifest == MANIFEST
    assert first.state()["by"] == second.id


def test_a_published_run_is_not_continued(store: Store, recipe: Recipe) -> None:
    first, _ = runs.begin(store, recipe)
    work(store, first)
    first.update_state(status="published")
    _, receipts = runs.begin(store, recipe)
    assert receipts == {}
    assert first.staging.exists()


def test_a_run_that_stops_before_its_first_stage_passes_the_work_on(store: Store, recipe: Recipe) -> None:
    """Hours of quantizing must not be lost to a port in use at the next two attempts."""
    first, _ = runs.begin(store, recipe)
    work(store, first)
    for _ in range(3):
        run, receipts = runs.begin(store, recipe)
        with pytest.raises(PreflightError), runs.recorded(run, console()):
            raise PreflightError("port 8000 is not available")
    last, receipts = runs.begin(store, recipe)
    assert receipts.quantize.outputs.checkpoint == store.relative(last.staging / "checkpoint")
    assert staged(last) == "weights"


class Killed(BaseException):
    """As SIGKILL: nothing of ours runs after it."""


@pytest.mark.parametrize("count", range(1, 9))
def test_killed_at_any_step_of_taking_over_nothing_is_lost(
    store: Store, recipe: Recipe, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the count-th step that changes the store the process dies; then twice more; then it runs."""
    first, _ = runs.begin(store, recipe)
    work(store, first)
    left = [count]

    def dying(method: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return method(*arguments, **options)

        return step

    for _ in range(2):
        left[0] = count
        with monkeypatch.context() as patch:
            patch.setattr(Store, "new_run", dying(Store.new_run))
            patch.setattr(RunDirectory, "save", dying(RunDirectory.save))
            patch.setattr(RunDirectory, "update_state", dying(RunDirectory.update_state))
            patch.setattr(Path, "rename", dying(Path.rename))
            try:
                runs.begin(store, recipe)
            except Killed:
                pass
            else:
                assert count > 4  # it has fewer steps than that
    last, receipts = runs.begin(store, recipe)
    assert receipts.quantize.outputs.checkpoint == store.relative(last.staging / "checkpoint")
    assert staged(last) == "weights"


@pytest.mark.parametrize("before", ["itself", "", "..", "a/b", "a\0b", "x" * 4300, 7, None, ["x"]])
def test_whatever_run_json_names_as_the_run_before_nothing_loops_or_leads_out(
    store: Store, recipe: Recipe, before: Any
) -> None:
    """By hand: an id that is its own, no id, or no id of a neighbouring run."""
    first, _ = runs.begin(store, recipe)
    first.update_state(continues=first.id if before == "itself" else before)
    second, _ = runs.begin(store, recipe)
    assert [run.id for run in second.lineage()] == [second.id, first.id]
    assert not second.staging.exists()


def test_a_receipt_that_cannot_be_read_is_named_and_no_run_begins(store: Store, recipe: Recipe) -> None:
    first, _ = runs.begin(store, recipe)
    work(store, first)
    first.receipt_path("quantize").write_text('{"stage": "quantize"}')
    with pytest.raises(VerificationError) as caught:
        runs.begin(store, recipe)
    assert caught.value.where == str(first.receipt_path("quantize"))
    assert [run.id for run in store.runs("tiny")] == [first.id]
    assert staged(first) == "weights"


# -- how a run's end is recorded ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (QuantizeError("msmodelslim failed", hint="look"), "failed"),
        (ValueError("a bug"), "failed"),
        (KeyboardInterrupt(), "interrupted"),
        (InterruptedRunError("interrupted"), "interrupted"),
        (RetryableError("stopped by SIGTERM"), "interrupted"),
    ],
)
def test_the_end_is_in_the_state_and_in_the_events(
    store: Store, recipe: Recipe, error: BaseException, status: str
) -> None:
    run, _ = runs.begin(store, recipe)
    said = console()
    said.record_to(run.events)
    with pytest.raises(type(error)), runs.recorded(run, said):
        raise error
    state = run.state()
    assert state["status"] == status
    assert state["error"]["what"] == (str(error) or "interrupted")
    last = json.loads(run.events.read_text().splitlines()[-1])
    assert last["event"] == "failed"
    assert last["what"] == state["error"]["what"]


@pytest.mark.parametrize("error", [FileNotFoundError("staging"), QuantizeError("the worker failed")])
def test_a_run_whose_work_was_taken_over_says_so(store: Store, recipe: Recipe, error: Exception) -> None:
    slow, _ = runs.begin(store, recipe)
    fast, _ = runs.begin(store, recipe)
    with pytest.raises(RetryableError, match=fast.id), runs.recorded(slow, console()):
        raise error
    assert slow.state()["status"] == "taken over"


def test_an_error_is_not_hidden_by_a_disk_that_cannot_record_it(
    store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = runs.begin(store, recipe)

    def full(*arguments: object, **fields: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunDirectory, "update_state", full)
    with pytest.raises(QuantizeError, match="the reason"), runs.recorded(run, console()):
        raise QuantizeError("the reason")


def at(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock of this host, from which ids are made, say something else."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            return cls.fromisoformat(moment).replace(tzinfo=tz)

    monkeypatch.setattr("quantpipe.store.store.datetime", Clock)


def test_a_host_whose_clock_is_ahead_does_not_hide_later_runs(
    store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its published run has the greatest id; the unfinished one after it is what the next run continues."""
    at("2099-01-01T00:00:00", monkeypatch)
    ahead, _ = runs.begin(store, recipe)
    ahead.update_state(status="published")
    at("2026-01-01T00:00:00", monkeypatch)
    killed, _ = runs.begin(store, recipe)
    work(store, killed)
    assert killed.id < ahead.id
    assert [run.id for run in store.runs("tiny")] == [ahead.id, killed.id]
    ahead.update_state(touched="later")
    following, receipts = runs.begin(store, recipe)
    assert staged(following) == "weights"
    assert "quantize" in receipts
    assert killed.state()["by"] == following.id


def test_a_file_server_whose_clock_is_set_back_keeps_the_order(
    store: Store, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = runs.begin(store, recipe)
    monkeypatch.setattr(Store, "clock", lambda self: 1000.0)
    second, _ = runs.begin(store, recipe)
    assert [run.id for run in store.runs("tiny")] == [first.id, second.id]


def test_runs_of_0_1_0_are_ordered_by_their_ids(store: Store, recipe: Recipe) -> None:
    old = store.new_run("tiny")
    old.update_state(status="failed")
    run, _ = runs.begin(store, recipe)
    odd = RunDirectory(old.path.with_name("by-hand"))
    odd.create()
    assert [found.id for found in store.runs("tiny")] == ["by-hand", old.id, run.id]
    assert old.state()["by"] == run.id
