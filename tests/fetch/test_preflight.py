from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from quantpipe.errors import PreflightError, StorageFullError
from quantpipe.fetch import preflight
from quantpipe.fetch.preflight import check_space
from quantpipe.fetch.stage import FetchStage
from quantpipe.store.space import Space
from quantpipe.store.store import SPARE_BYTES

from .conftest import MakeContext, model_files, read_files, write_files


def pretend(monkeypatch: pytest.MonkeyPatch, free: int, inodes: int | None) -> None:
    monkeypatch.setattr(Space, "below", classmethod(lambda cls, path: Space(free, 1 << 60, inodes)))


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, SPARE_BYTES + 99, None)
    check_space(tmp_path, missing_bytes=99, missing_files=1)
    with pytest.raises(PreflightError, match="free") as caught:
        check_space(tmp_path, missing_bytes=100, missing_files=1)
    assert caught.value.exit_code == 5
    assert "QUANTPIPE_STORE" in (caught.value.hint or "")


def test_too_few_inodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1 << 50, 100)
    check_space(tmp_path, missing_bytes=1, missing_files=10)
    with pytest.raises(PreflightError, match="inodes"):
        check_space(tmp_path, missing_bytes=1, missing_files=100)


def test_nothing_is_fetched_into_a_store_that_is_too_small(
    tmp_path: Path, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_files(tmp_path / "models" / "Tiny", model_files())
    pretend(monkeypatch, 1000, None)
    context = make_context(source)
    assert FetchStage().plan(context).notes
    with pytest.raises(PreflightError):
        FetchStage().run(context)
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_what_is_there_already_needs_no_space(
    tmp_path: Path, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_files(tmp_path / "models" / "Tiny", model_files())
    context = make_context(source)
    snapshot = context.store.absolute(FetchStage().run(context).outputs.snapshot)
    (snapshot / "config.json").unlink()
    size = len(model_files()["config.json"])
    asked: list[int] = []

    def check(path: Path, *, missing_bytes: int, missing_files: int) -> None:
        asked.append(missing_bytes)

    monkeypatch.setattr(preflight, "check_space", check)
    FetchStage().run(context)
    assert asked == [size]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_disk_that_fills_up_keeps_what_was_fetched(
    tmp_path: Path, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    source = write_files(tmp_path / "models" / "Tiny", model_files(size=10_000))
    context = make_context(source, jobs=1)
    written = 0
    real = os.write

    def write(descriptor: int, data: Any) -> int:
        nonlocal written
        written += len(data)
        if written > 15_000:
            raise OSError(number, os.strerror(number))
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(StorageFullError) as caught:
            FetchStage().run(context)
    assert caught.value.exit_code == 5
    assert "kept" in (caught.value.hint or "")
    result = FetchStage().run(context)
    assert read_files(context.store.absolute(result.outputs.snapshot)) == model_files(size=10_000)
    assert any(f.how == "kept" for f in result.figures.per_file)


def test_preflight_of_the_stage(
    tmp_path: Path, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(write_files(tmp_path / "models" / "Tiny", model_files()))
    stage = FetchStage()
    stage.preflight(context)
    context.plans["fetch"] = stage.plan(context)
    stage.preflight(context)
    with monkeypatch.context() as patch:
        pretend(patch, 1 << 50, 5)
        with pytest.raises(PreflightError, match="inodes"):
            stage.preflight(context)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PreflightError, match="not writable"):
        stage.preflight(context)


def test_plan_counts_what_has_landed(tmp_path: Path, make_context: MakeContext) -> None:
    context = make_context(write_files(tmp_path / "models" / "Tiny", model_files(size=10_000)))
    snapshot = context.store.absolute(FetchStage().run(context).outputs.snapshot)
    shard = snapshot / "model-00001-of-00003.safetensors"
    (snapshot / ".quantpipe/partial").mkdir(exist_ok=True)
    (snapshot / ".quantpipe/partial/x.1").write_bytes(b"1" * 4000)
    size = shard.stat().st_size
    shard.unlink()
    assert FetchStage().plan(context).disk_bytes == size - 4000
