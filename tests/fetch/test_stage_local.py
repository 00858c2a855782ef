from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from quantpipe.errors import RecipeError, VerificationError
from quantpipe.fetch import hashes
from quantpipe.fetch.hubs import local
from quantpipe.fetch.stage import FetchStage
from quantpipe.stage import Context, Receipt, StageResult
from quantpipe.store.manifest import build
from quantpipe.store.outputs import FetchFigures, FetchOutput
from quantpipe.store.receipt import FetchReceipt

from .conftest import MakeContext, model_files, read_files, shard_bytes, write_files

FetchResult = StageResult[FetchOutput, FetchFigures]


def fetch(context: Context) -> tuple[FetchReceipt, FetchResult]:
    stage = FetchStage()
    key = stage.key(context)
    result = stage.run(context)
    return Receipt("fetch", key, result.outputs, result.figures, "now", 0.0), result


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_files(tmp_path / "models" / "Tiny", model_files())


def test_snapshot_equals_the_directory(source: Path, make_context: MakeContext) -> None:
    context = make_context(source)
    receipt, result = fetch(context)
    path = context.store.absolute(result.outputs.snapshot)
    assert read_files(path) == model_files()
    assert result.outputs.snapshot == f"sources/local/models--Tiny/{result.outputs.commit}"
    assert result.outputs.manifest == build(path, jobs=1, exclude=[".quantpipe"]).digest()
    assert result.figures.files == 6
    assert result.figures.bytes == sum(map(len, model_files().values()))
    assert FetchStage().still_there(context, receipt)


def test_refresh_reads_no_content(
    source: Path, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(source)
    receipt, _ = fetch(context)

    def forbidden(*_: object) -> str:
        raise AssertionError("content was read")

    monkeypatch.setattr(local, "hash_file", forbidden)
    monkeypatch.setattr(hashes.Hashes, "read", forbidden)
    started = time.monotonic()
    stage = FetchStage()
    assert stage.key(context) == receipt.key
    assert stage.still_there(context, receipt)
    assert stage.plan(context).action == "reuse"
    assert stage.run(context).figures.bytes_transferred == 0
    assert time.monotonic() - started < 0.5


def test_touched_directory_is_the_same_commit(
    source: Path, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(source)
    receipt, _ = fetch(context)
    os.utime(source / "config.json")
    assert FetchStage().key(context) == receipt.key
    monkeypatch.setattr(local, "hash_file", None)
    assert FetchStage().key(context) == receipt.key, "the new stamp was not kept"


def test_changed_file_alone_is_transferred(source: Path, make_context: MakeContext) -> None:
    context = make_context(source)
    _, before = fetch(context)
    (source / "config.json").write_bytes(b'{"model_type": "other"}')
    _, after = fetch(context)
    assert after.outputs.commit != before.outputs.commit
    assert after.figures.bytes_transferred == len(b'{"model_type": "other"}')
    how = {f.path: f.how for f in after.figures.per_file}
    assert how.pop("config.json") == "fetched"
    assert set(how.values()) == {"linked"}
    first, second = (context.store.absolute(r.outputs.snapshot) for r in (before, after))
    name = "model-00001-of-00003.safetensors"
    assert (first / name).samefile(second / name)
    assert read_files(first)["config.json"] == model_files()["config.json"]


def test_tampered_snapshot_is_mended(source: Path, make_context: MakeContext) -> None:
    context = make_context(source)
    receipt, result = fetch(context)
    victim = context.store.absolute(result.outputs.snapshot) / "config.json"
    victim.chmod(0o644)
    victim.write_bytes(b"{}")
    assert not FetchStage().still_there(context, receipt)
    _, again = fetch(context)
    assert victim.read_bytes() == model_files()["config.json"]
    assert again.figures.bytes_transferred == len(model_files()["config.json"])


def test_deep_finds_what_stamps_hide(source: Path, make_context: MakeContext) -> None:
    context = make_context(source)
    _, result = fetch(context)
    victim = context.store.absolute(result.outputs.snapshot) / "model-00001-of-00003.safetensors"
    status = victim.stat()
    victim.chmod(0o644)
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert FetchStage().run(context).figures.bytes_transferred == 0
    assert FetchStage(deep=True).run(context).figures.bytes_transferred == len(data)
    assert victim.read_bytes() == model_files()[victim.name]


def test_plan_writes_nothing(source: Path, make_context: MakeContext) -> None:
    context = make_context(source)
    plan = FetchStage().plan(context)
    assert plan.action == "run"
    assert plan.disk_bytes == plan.source_bytes == sum(map(len, model_files().values()))
    assert plan.config and plan.config["model_type"] == "qwen3_moe"
    assert not (context.store.root / "sources").exists()


def test_other_formats_and_code_stay_out(source: Path, make_context: MakeContext) -> None:
    for name in ("pytorch_model.bin", "model.pt", "modeling_x.py", ".gitattributes", "original/a.pth"):
        write_files(source, {name: b"x"})
    context = make_context(source)
    _, plain = fetch(context)
    assert set(read_files(context.store.absolute(plain.outputs.snapshot))) == set(model_files())
    trusting = make_context(source, trust=True)
    receipt, result = fetch(trusting)
    assert (trusting.store.absolute(result.outputs.snapshot) / "modeling_x.py").is_file()
    assert receipt.key != FetchStage().key(context)


def test_missing_directory(tmp_path: Path, make_context: MakeContext) -> None:
    with pytest.raises(RecipeError) as caught:
        FetchStage().key(make_context(tmp_path / "nowhere"))
    assert caught.value.exit_code == 2
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_truncated_shard_fails_before_a_byte_is_copied(source: Path, make_context: MakeContext) -> None:
    shard = source / "model-00002-of-00003.safetensors"
    size = shard.stat().st_size
    with shard.open("r+b") as file:
        file.truncate(size - 7)
    context = make_context(source)
    with pytest.raises(VerificationError) as caught:
        FetchStage().key(context)
    assert caught.value.exit_code == 3
    text = str(caught.value)
    assert str(shard) in text
    assert f"{size - 7:,}" in text
    assert f"{size:,}" in text
    assert caught.value.hint
    assert not (context.store.root / "sources").exists()


def test_index_that_names_a_missing_shard(source: Path, make_context: MakeContext) -> None:
    (source / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(VerificationError, match="model-00003-of-00003") as caught:
        FetchStage().key(make_context(source))
    assert "model.safetensors.index.json" in str(caught.value)


def test_index_that_misplaces_a_tensor(source: Path, make_context: MakeContext) -> None:
    (source / "model-00003-of-00003.safetensors").write_bytes(shard_bytes(["other"], 10))
    with pytest.raises(VerificationError, match=r"layer\.2\.weight"):
        FetchStage().key(make_context(source))


def hub_cache(source: Path, folder: Path) -> Path:
    """The files of `source` as huggingface_hub keeps them; the snapshot's folder."""
    blobs = folder / "models--acme--tiny" / "blobs"
    snapshot = blobs.parent / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in source.iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(Path("../../blobs", path.name))
    return snapshot


def test_links_of_a_hub_cache_are_followed(source: Path, tmp_path: Path, make_context: MakeContext) -> None:
    cache = hub_cache(source, tmp_path / "cache")
    context = make_context(cache)
    _, result = fetch(context)
    assert read_files(context.store.absolute(result.outputs.snapshot)) == model_files()
    (cache / "tokenizer.json").resolve().unlink()
    with pytest.raises(RecipeError, match=r"tokenizer\.json"):
        FetchStage().key(context)


def test_links_in_the_source_are_followed(source: Path, tmp_path: Path, make_context: MakeContext) -> None:
    (source / "config.json").rename(source / "old.json")
    (source / "config.json").symlink_to("old.json")
    by_a_link = tmp_path / "latest"
    by_a_link.symlink_to(source)
    context = make_context(by_a_link)
    _, result = fetch(context)
    config = context.store.absolute(result.outputs.snapshot) / "config.json"
    assert not config.is_symlink()
    assert config.read_bytes() == model_files()["config.json"]


@pytest.mark.parametrize("target", ["../id_rsa", "/etc/hostname", ".git/config", "../Tiny-other/x.json"])
def test_a_link_that_leads_out_of_the_source(
    source: Path, make_context: MakeContext, target: str, tmp_path: Path
) -> None:
    place = source / target
    place.parent.mkdir(exist_ok=True)
    if not place.exists():
        place.write_text("secret")
    (source / "LICENSE").symlink_to(target)
    with pytest.raises(RecipeError, match="leads out of it") as caught:
        FetchStage().plan(make_context(source))
    assert caught.value.where == str(source / "LICENSE")
    assert not list(tmp_path.rglob("receipts/LICENSE*"))
    context = make_context(source, exclude=["LICENSE"])
    fetch(context)


def test_a_link_of_a_cache_leads_to_its_blobs_only(
    source: Path, tmp_path: Path, make_context: MakeContext
) -> None:
    cache = hub_cache(source, tmp_path / "cache")
    (tmp_path / "id_rsa").write_text("secret")
    (cache / "LICENSE").symlink_to(tmp_path / "id_rsa")
    with pytest.raises(RecipeError, match="leads out of it"):
        FetchStage().key(make_context(cache))


def test_what_becomes_more_readable_is_said(source: Path, make_context: MakeContext, tmp_path: Path) -> None:
    open_to_all(tmp_path)
    for path in source.iterdir():
        path.chmod(0o644)
    assert FetchStage().plan(make_context(source)).notes == ()
    (source / "config.json").chmod(0o600)
    (note,) = FetchStage().plan(make_context(source)).notes
    assert "1 of 6 files" in note and note.endswith("published: config.json")
    source.parent.chmod(0o750)
    (note,) = FetchStage().plan(make_context(source)).notes
    assert "6 of 6 files" in note and note.endswith("...")


def open_to_all(folder: Path) -> None:
    """pytest's own folders are closed; what is below them should not count as private for that."""
    while not folder.stat().st_mode & 0o001:
        folder.chmod(0o755)
        folder = folder.parent


def test_a_name_that_is_not_utf8(source: Path, make_context: MakeContext) -> None:
    Path(os.fsdecode(bytes(source) + b"/caf\xe9.json")).write_text("{}")
    with pytest.raises(VerificationError, match="printable") as caught:
        FetchStage().plan(make_context(source))
    assert str(caught.value).isprintable()
    fetch(make_context(source, exclude=["caf*"]))
    (source / "quantpipe.json").write_text("{}")
    with pytest.raises(RecipeError, match="a checkpoint that quantpipe made"):
        FetchStage().plan(make_context(source, exclude=["caf*"]))
