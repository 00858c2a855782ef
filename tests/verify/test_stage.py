from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import write_recipe
from helpers.consoles import said
from helpers.receipts import fetch_receipt, quantize_receipt, verify_receipt

from quantpipe.console import Console
from quantpipe.errors import VerificationError
from quantpipe.recipe.load import load_recipe
from quantpipe.settings import Settings
from quantpipe.stage import Context, Receipts, RunDirectory
from quantpipe.store import manifest
from quantpipe.store.damaged import marked
from quantpipe.store.manifest import CARD, PROVENANCE
from quantpipe.store.sealed import glance_at_sealed
from quantpipe.store.store import Store
from quantpipe.verify.stage import VerifyStage
from verify import edit

pytestmark = pytest.mark.quantize_env
Plant = Callable[[Path], object]


@pytest.fixture
def context(made: Path, tmp_path: Path) -> Context:
    """What the verify stage sees after quantize: a checkpoint in staging, with msmodelslim's own modes."""
    return make_context(made, tmp_path)


def make_context(made: Path, tmp_path: Path, plant: Plant = lambda path: None, **sections: Any) -> Context:
    recipe = load_recipe(write_recipe(tmp_path / "recipe", **sections))
    store = Store(tmp_path / "store")
    run: RunDirectory = store.new_run(recipe.name)
    shutil.copytree(made / "v1-moe", run.staging)
    plant(run.staging)
    written = manifest.build(run.staging, jobs=2)
    settings = Settings(store=store.root, jobs=2)
    context = Context(recipe, settings, store, Console(stream=io.StringIO()), run)
    context.receipts = Receipts.of(
        fetch_receipt("sources/x", commit="c0ffee"), quantize_receipt(store.relative(run.staging), written)
    )
    return context


def digest(context: Context) -> str:
    return context.quantize.manifest.digest()


def test_seals_what_passes(context: Context) -> None:
    staging = context.run.staging
    result = VerifyStage().run(context)
    sealed = context.store.absolute(result.outputs.checkpoint)
    assert result.outputs.digest == digest(context) == sealed.name
    assert not staging.exists()
    assert {path.stat().st_mode & 0o777 for path in sealed.rglob("*") if path.is_file()} == {0o444}
    assert result.figures.findings == {"error": 0, "warning": 0, "note": 0}
    assert {"C1", "B6", "A10"} <= set(result.figures.report["passed"])
    assert result.figures.tensors == 125
    assert "checks passed" in result.summary
    assert manifest.check(sealed, context_manifest(context), jobs=2, exclude=(PROVENANCE,)) == []


def context_manifest(context: Context) -> manifest.Manifest:
    return context.quantize.manifest


def test_provenance(context: Context) -> None:
    sealed = context.store.absolute(VerifyStage().run(context).outputs.checkpoint)
    value = context.store.provenance(sealed)
    assert value is not None
    assert value["format"] == 1
    assert value["recipe"] == {"name": context.recipe.name, "digest": context.recipe.digest()}
    assert value["source"]["commit"] == "c0ffee"
    assert value["run"] == context.run.id
    assert value["versions"] == {"msmodelslim": "26.1.0"}
    assert value["manifest"] == context_manifest(context).to_json()


@pytest.mark.parametrize(
    ("plant", "check", "where"),
    [
        (lambda p: edit.remove(p, "model.layers.1.self_attn.q_proj.deq_scale"), "B1", "q_proj.deq_scale"),
        (lambda p: edit.change(p, "lm_head.weight", lambda a: a * 0), "B12", "lm_head.weight"),
        (lambda p: (p / "quant_model_description.json").unlink(), "A1", "quant_model_description.json"),
    ],
)
def test_nothing_is_sealed_that_fails(
    made: Path, tmp_path: Path, plant: Plant, check: str, where: str
) -> None:
    context = make_context(made, tmp_path, plant)
    with pytest.raises(VerificationError) as caught:
        VerifyStage().run(context)
    error = caught.value
    assert error.exit_code == 3
    assert error.what.startswith(f"{check}: ")
    assert where in str(error.where)
    assert error.hint is not None
    assert "--force quantize" in error.hint
    assert any(line.startswith(f"{check} error") for line in error.details)
    assert context.run.staging.is_dir()
    assert context.store.generations(context.recipe.name) == []


def flip_a_byte(path: Path) -> None:
    shard = edit.shard_of(path)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.chmod(0o600)
    shard.write_bytes(data)


@pytest.mark.parametrize(
    "change",
    [flip_a_byte, lambda p: (p / "extra.txt").write_text("x"), lambda p: (p / "tokenizer.json").unlink()],
)
def test_what_changed_since_it_was_written(context: Context, change: Plant) -> None:
    change(context.run.staging)
    with pytest.raises(VerificationError) as caught:
        VerifyStage().run(context)
    assert any(line.startswith("C1 error") for line in caught.value.details)
    assert context.store.generations(context.recipe.name) == []


def test_what_changes_while_it_is_verified_is_not_sealed(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user of the store renames two files into each other after their hashes were compared."""
    from quantpipe.verify import verify

    staging, verify_checkpoint = context.run.staging, verify.verify_checkpoint

    def then_swapped(*arguments: Any, **options: Any) -> Any:
        report = verify_checkpoint(*arguments, **options)
        for old, new in (("config.json", "x"), ("tokenizer.json", "config.json"), ("x", "tokenizer.json")):
            (staging / old).rename(staging / new)
        return report

    monkeypatch.setattr(verify, "verify_checkpoint", then_swapped)
    with pytest.raises(VerificationError, match="changed after it was verified") as caught:
        VerifyStage().run(context)
    assert caught.value.where == str(staging / "config.json")
    assert context.store.generations(context.recipe.name) == []


def test_headers_only_still_compares_every_hash(made: Path, tmp_path: Path) -> None:
    context = make_context(made, tmp_path, verify={"deep": False})
    flip_a_byte(context.run.staging)
    with pytest.raises(VerificationError, match="C1"):
        VerifyStage().run(context)


def test_killed_after_sealing(context: Context) -> None:
    first = VerifyStage().run(context)
    second = VerifyStage().run(context)
    assert second.outputs == first.outputs
    assert VerifyStage().still_there(
        context, verify_receipt(second.outputs.digest, second.outputs.checkpoint)
    )


def test_killed_after_sealing_and_damaged_since(context: Context) -> None:
    sealed = context.store.absolute(VerifyStage().run(context).outputs.checkpoint)
    flip_a_byte(sealed)
    with pytest.raises(VerificationError, match="C1"):
        VerifyStage().run(context)
    assert marked(sealed), "the next run makes it again, and does not end here for ever"


def test_an_equal_generation_is_trusted_only_while_it_is_what_its_name_says(
    context: Context, tmp_path: Path
) -> None:
    again = shutil.copytree(context.run.staging, tmp_path / "again")
    sealed = context.store.absolute(VerifyStage().run(context).outputs.checkpoint)
    shutil.copytree(again, context.run.staging)
    assert context.store.absolute(VerifyStage().run(context).outputs.checkpoint) == sealed
    flip_a_byte(sealed)
    shutil.copytree(again, context.run.staging)
    assert context.store.absolute(VerifyStage().run(context).outputs.checkpoint) == sealed
    assert manifest.check(sealed, context_manifest(context), jobs=2, exclude=(PROVENANCE,)) == []
    assert not context.run.staging.exists()
    assert "was damaged after it was sealed" in said(context.console)


def test_killed_while_sealing(context: Context) -> None:
    (context.run.staging / PROVENANCE).write_text("{}")
    (context.run.staging / ".tmp-0123-quantpipe.json").write_text("{")
    sealed = context.store.absolute(VerifyStage().run(context).outputs.checkpoint)
    assert context.store.provenance(sealed) != {}
    assert not list(sealed.glob(".tmp-*"))


def test_the_model_card_is_sealed_and_no_part_of_the_digest(context: Context) -> None:
    (context.run.staging / CARD).write_text("half a card of a run that was killed while it sealed")
    result = VerifyStage(lambda context, place, report: f"# {len(report.passed)} passed\n").run(context)
    sealed = context.store.absolute(result.outputs.checkpoint)
    assert (sealed / CARD).read_text() == f"# {len(result.figures.report['passed'])} passed\n"
    assert (sealed / CARD).stat().st_mode & 0o777 == 0o444
    assert sealed.name == digest(context)
    assert glance_at_sealed(sealed) == []
    assert VerifyStage().still_there(
        context, verify_receipt(result.outputs.digest, result.outputs.checkpoint)
    )


def test_a_card_that_the_manifest_lists_stays(context: Context) -> None:
    (context.run.staging / CARD).write_text("msmodelslim's own")
    written = manifest.build(context.run.staging, jobs=2)
    quantized = quantize_receipt(context.store.relative(context.run.staging), written)
    context.receipts = Receipts.of(context.receipts.fetch, quantized)
    sealed = context.store.absolute(VerifyStage(lambda *_: "ours").run(context).outputs.checkpoint)
    assert (sealed / CARD).read_text() == "msmodelslim's own"
    (sealed / CARD).chmod(0o644)
    (sealed / CARD).unlink()
    assert [found.path for found in glance_at_sealed(sealed)] == [CARD]


def test_a_card_that_fails_is_a_warning(context: Context) -> None:
    def fails(*_: object) -> str:
        raise ZeroDivisionError("of the card")

    sealed = context.store.absolute(VerifyStage(fails).run(context).outputs.checkpoint)
    assert not (sealed / CARD).exists()
    assert "there is no model card: ZeroDivisionError: of the card" in said(context.console)


def test_nothing_there_at_all(context: Context) -> None:
    shutil.rmtree(context.run.staging)
    with pytest.raises(VerificationError, match="cannot be read"):
        VerifyStage().run(context)


def test_still_there(context: Context) -> None:
    stage = VerifyStage()
    outputs = stage.run(context).outputs
    done = verify_receipt(outputs.digest, outputs.checkpoint)
    assert stage.still_there(context, done)
    sealed = context.store.absolute(done.outputs.checkpoint)
    sealed.chmod(0o755)
    (sealed / PROVENANCE).unlink()
    assert not stage.still_there(context, done)


def test_key(made: Path, tmp_path: Path) -> None:
    def key(folder: str, **sections: Any) -> str:
        return VerifyStage().key(make_context(made, tmp_path / folder, **sections))

    assert key("a") == key("b")
    assert key("c", verify={"target": "0.21.0"}) != key("a2")
    assert key("d", smoke={"serve": {"tensor_parallel_size": 2}}) != key("a3")
    changed = make_context(made, tmp_path / "e", lambda p: (p / "x.txt").write_text("x"))
    assert VerifyStage().key(changed) != key("a4")


def test_plan(context: Context) -> None:
    plan = VerifyStage().plan(context)
    assert plan.disk_bytes == 0
    assert plan.read_bytes == context_manifest(context).total_bytes
    context.receipts.clear()
    assert VerifyStage().plan(context).read_bytes == 0
    VerifyStage().preflight(context)
