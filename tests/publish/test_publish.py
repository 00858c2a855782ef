from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest
from helpers.consoles import said
from helpers.receipts import fetch_receipt, verify_receipt
from helpers.rot import flip
from helpers.stores import point, provenance

from quantpipe.console import Console
from quantpipe.errors import RetryableError, VerificationError
from quantpipe.publish import retention
from quantpipe.publish.stage import UNPUBLISHED_GRACE_SECONDS, PublishStage, conclude
from quantpipe.recipe.load import load_recipe
from quantpipe.settings import Settings
from quantpipe.stage import Context, FetchPlan, Receipt
from quantpipe.store import manifest
from quantpipe.store.damaged import marked
from quantpipe.store.lease import Lease
from quantpipe.store.pointer import Pointer
from quantpipe.store.receipt import PublishReceipt, receipt_from_json
from quantpipe.store.sealed import glance_at_sealed, manifest_of, record_verified, verified_since
from quantpipe.store.store import Store


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "model").mkdir()
    (tmp_path / "prompts.json").write_text('["a prompt"]')
    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\nsource: {hub: local, repo: model}\nquantize: {calibration: {dataset: prompts.json}}\n"
    )
    store = Store(tmp_path / "store")
    return Context(
        recipe=load_recipe(tmp_path / "tiny.yaml"),
        settings=Settings(store=store.root),
        store=store,
        console=Console(stream=io.StringIO()),
        run=store.new_run("tiny"),
    )


def seal(context: Context, letter: str) -> str:
    staging = context.store.new_run("tiny").staging
    staging.mkdir()
    (staging / "weights").write_text(letter)
    context.store.seal(staging, "tiny", letter * 64, provenance(staging))
    context.executed.add("verify")
    return letter * 64


def publish(context: Context, letter: str) -> PublishReceipt:
    """As the pipeline does: run the stage, make its receipt, conclude."""
    digest = seal(context, letter)
    context.receipts["verify"] = verify_receipt(digest)
    stage = PublishStage()
    context.pointed = context.store.pointer("tiny").named()
    key = stage.key(context)
    result = stage.run(context)
    receipt: PublishReceipt = Receipt(
        "publish", key, result.outputs, result.figures, "now", 0.0, result.summary
    )
    context.receipts["publish"] = receipt
    conclude(context)
    return receipt


def names(context: Context) -> list[str]:
    return [generation.digest[0] for generation in context.store.generations("tiny")]


def test_the_pointer_moves_and_the_receipt_tells_from_where(context: Context) -> None:
    first, second = publish(context, "a"), publish(context, "b")
    current = context.store.current("tiny")
    assert current is not None and current.name == "b" * 64
    assert first.figures.previous is None
    assert second.figures.previous == "a" * 64
    assert second.summary == "current -> bbbbbbbbbbbb"
    assert set(context.store.load_receipts("tiny", "b" * 64)) == {"verify", "publish"}


def test_the_receipt_stands_while_the_pointer_names_it(context: Context) -> None:
    stage = PublishStage()
    first, second = publish(context, "a"), publish(context, "b")
    assert stage.still_there(context, second)
    assert not stage.still_there(context, first)
    point(context.store, "a" * 64)
    assert not stage.still_there(context, second)
    assert stage.still_there(context, first)


def test_what_was_rolled_back_is_not_published_again_unless_it_is_wanted(context: Context) -> None:
    stage = PublishStage()
    publish(context, "a")
    second = publish(context, "b")
    retention.rollback(context.store, "tiny")
    assert stage.still_there(context, second)
    publish(context, "b")
    assert not retention.held(context.store, "tiny", "b" * 64)


def test_the_key_is_the_checkpoint_s(context: Context) -> None:
    keys = [publish(context, letter).key for letter in "aba"]
    assert keys[0] == keys[2] != keys[1]


def test_generations_beyond_keep_are_removed_and_told(context: Context) -> None:
    for letter in "abcd":
        publish(context, letter)
    assert names(context) == ["c", "d"]
    shown = said(context.console)
    assert "removed generation aaaaaaaaaaaa" in shown and "removed generation bbbbbbbbbbbb" in shown


def test_a_generation_at_its_smoke_load_is_left_alone_for_a_week(context: Context) -> None:
    waiting = context.store.generation("tiny", seal(context, "f"))
    publish(context, "a")
    assert waiting.is_dir()
    then = time.time() - UNPUBLISHED_GRACE_SECONDS - 60
    os.utime(waiting / "quantpipe.json", (then, then))
    publish(context, "b")
    assert not waiting.exists()


def test_a_generation_that_went_away_is_not_pointed_at(context: Context) -> None:
    publish(context, "a")
    context.receipts["verify"] = verify_receipt("e" * 64)
    context.pointed = "a" * 64
    with pytest.raises(VerificationError, match="does not exist"):
        PublishStage().run(context)
    current = context.store.current("tiny")
    assert current is not None and current.name == "a" * 64


def test_the_plan_names_the_pointer(context: Context) -> None:
    planned = PublishStage().plan(context)
    assert str(context.store.pointer("tiny").path) in planned.summary
    assert (planned.disk_bytes, planned.memory_bytes, planned.notes) == (0, 0, ())


def test_recipes_that_take_turns_are_said_before_the_publish_and_in_its_receipt(
    context: Context, tmp_path: Path
) -> None:
    """Two files with one name, both on a schedule: A, B, A."""
    text = (tmp_path / "tiny.yaml").read_text()
    (tmp_path / "other.json").write_text('["another prompt"]')
    (tmp_path / "other.yaml").write_text(text.replace("prompts.json", "other.json"))
    one, other = context.recipe, load_recipe(tmp_path / "other.yaml")
    assert one.digest() != other.digest()
    for recipe, letter in ((one, "a"), (other, "b")):
        context.recipe = recipe
        assert PublishStage().plan(context).notes == ()
        assert publish(context, letter).figures.warnings == ()
    context.recipe = one
    [note] = PublishStage().plan(context).notes
    assert one.digest()[:12] in note and other.digest()[:12] in note
    receipt = publish(context, "a")
    assert receipt.figures.warnings == (note,)
    assert receipt_from_json(receipt.to_json(), where="here") == receipt


def test_a_branch_that_moved_back_is_said_before_the_publish(context: Context) -> None:
    for letter, commit in (("a", "1"), ("b", "2")):
        context.receipts["fetch"] = fetch_receipt(commit=commit * 40)
        assert publish(context, letter).figures.warnings == ()
    context.receipts.clear()
    context.plans["fetch"] = FetchPlan("fetch", "run", "", commit="1" * 40)
    [note] = PublishStage().plan(context).notes
    assert "111111111111 again, of which generation aaaaaaaaaaaa was made" in note
    assert "after 222222222222" in note
    context.recipe = context.recipe.model_copy(
        update={"source": context.recipe.source.model_copy(update={"revision": "1" * 40})}
    )
    assert PublishStage().plan(context).notes == (), "the recipe names this commit"


def test_the_plan_says_that_servers_could_not_read(context: Context) -> None:
    context.store.root.chmod(0o750)
    (note,) = PublishStage().plan(context).notes
    assert f"{context.store.root} has mode 0750" in note
    assert f"`chmod o+x {context.store.root}`" in note
    assert not context.store.pointer("tiny").path.exists()


def test_a_pointer_that_was_moved_meanwhile_is_left_alone(context: Context) -> None:
    """A run that was stopped for hours must not publish over what came after it began."""
    publish(context, "a")
    digest = seal(context, "b")
    context.receipts["verify"] = verify_receipt(digest)
    context.pointed = None
    with pytest.raises(RetryableError, match="has moved"):
        PublishStage().run(context)
    assert context.store.pointer("tiny").named() == "a" * 64


def test_a_run_that_lost_its_lease_publishes_nothing(context: Context) -> None:
    publish(context, "a")
    digest = seal(context, "b")
    context.receipts["verify"] = verify_receipt(digest)
    with Lease.for_recipe(context.store.root, "tiny") as context.lease:
        context.lease.path.unlink()
        with (
            Lease.for_recipe(context.store.root, "tiny"),
            pytest.raises(RetryableError, match="taken the lease"),
        ):
            PublishStage().run(context)
    assert context.store.pointer("tiny").named() == "a" * 64


def test_the_receipts_are_there_before_the_pointer_moves(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in between, the way back is known."""
    publish(context, "a")
    digest = seal(context, "b")
    context.receipts.clear()
    context.receipts["verify"] = verify_receipt(digest)
    context.pointed = "a" * 64
    replace, seen = Pointer._replace, []

    def watched(self: Pointer, name: str) -> None:
        seen.append(set(context.store.load_receipts("tiny", digest)))
        replace(self, name)

    monkeypatch.setattr(Pointer, "_replace", watched)
    PublishStage().run(context)
    assert seen == [{"verify"}]
    assert retention.rollback(context.store, "tiny").now == "a" * 64


def test_a_failure_of_cleaning_up_is_a_warning(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*args: object, **options: object) -> None:
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(retention, "remove", busy)
    for letter in "abc":
        publish(context, letter)
    assert context.store.pointer("tiny").named() == "c" * 64
    assert "the cleanup failed" in said(context.console)


def real(context: Context) -> tuple[Path, str]:
    """A generation whose name is its manifest's digest, and which receipts say was verified."""
    staging = context.store.new_run("tiny").staging
    staging.mkdir()
    (staging / "weights").write_text("content")
    digest = manifest.build(staging, jobs=1).digest()
    place = context.store.seal(staging, "tiny", digest, provenance(staging))
    context.receipts["verify"] = verify_receipt(digest)
    return place, digest


def test_a_forced_publish_hashes_what_this_run_did_not_verify(context: Context) -> None:
    place, digest = real(context)
    PublishStage(forced=True).run(context)
    assert context.store.pointer("tiny").named() == digest
    flip(place / "weights")
    context.pointed = digest
    PublishStage().run(context)
    with pytest.raises(VerificationError, match="damaged") as caught:
        PublishStage(forced=True).run(context)
    assert caught.value.where == str(place / "weights")
    assert marked(place)
    assert glance_at_sealed(place)


@pytest.mark.parametrize("hours", [None, 25])
def test_what_nobody_has_read_back_lately_is_hashed_before_the_pointer_moves_to_it(
    context: Context, hours: float | None
) -> None:
    """A changed smoke section, the second of two recipes: what was verified last week is published today."""
    place, _ = real(context)
    if hours is not None:
        record_verified(place, manifest_of(place), context.store.clock() - hours * 3600)
    flip(place / "weights")
    with pytest.raises(VerificationError, match="damaged") as caught:
        PublishStage().run(context)
    assert caught.value.where == str(place / "weights")
    assert context.store.pointer("tiny").named() is None
    assert marked(place)


def test_what_was_read_back_lately_is_not_read_again(context: Context) -> None:
    """The smoke load failed on a probe, the probe is corrected an hour later."""
    place, digest = real(context)
    record_verified(place, manifest_of(place), context.store.clock() - 3600)
    flip(place / "weights")
    PublishStage().run(context)
    assert context.store.pointer("tiny").named() == digest


def test_hashing_before_a_publish_is_recorded(context: Context) -> None:
    place, _ = real(context)
    PublishStage().run(context)
    since = verified_since(place)
    assert since is not None and since > context.store.clock() - 60


def test_what_this_run_has_verified_is_not_read_again(context: Context) -> None:
    place, digest = real(context)
    flip(place / "weights")
    context.executed.add("verify")
    PublishStage(forced=True).run(context)
    assert context.store.pointer("tiny").named() == digest
