"""A read that is denied or fails is a fault of the storage, never a finding."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpipe import assets
from quantpipe.errors import PreflightError, QuantpipeError, RetryableError, VerificationError
from quantpipe.store import manifest
from quantpipe.verify.verify import verify_checkpoint

FILES = (
    "config.json",
    "tokenizer_config.json",
    "quant_model_description.json",
    "model.safetensors.index.json",
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    shutil.copytree(Path(assets.__file__).parent / "tiny-qwen3-moe", path)
    (path / "quant_model_description.json").write_text('{"model.layers.0.self_attn.q_proj.weight": "W8A8"}')
    (path / "chat_template.jinja").unlink(missing_ok=True)
    return path


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Let every open of the file fail."""

    def refusing(really: Callable[..., Any]) -> Callable[..., Any]:
        def failing(path: Any, *arguments: Any, **options: Any) -> Any:
            if Path(path).name == name:
                raise OSError(number, os.strerror(number), str(path))
            return really(path, *arguments, **options)

        return failing

    monkeypatch.setattr(Path, "open", refusing(Path.open))
    monkeypatch.setattr(os, "open", refusing(os.open))


def shard_of(checkpoint: Path) -> str:
    return sorted(path.name for path in checkpoint.glob("*.safetensors"))[-1]


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.EIO, RetryableError, 75),
        (errno.ESTALE, RetryableError, 75),
        (errno.EACCES, PreflightError, 5),
        (errno.EMFILE, PreflightError, 5),
    ],
)
@pytest.mark.parametrize("name", [*FILES, "a shard"])
def test_a_read_that_fails(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
    kind: type[QuantpipeError],
    code: int,
) -> None:
    name = shard_of(checkpoint) if name == "a shard" else name
    assert (checkpoint / name).exists()
    refuse(monkeypatch, name, number)
    with pytest.raises(kind) as caught:
        verify_checkpoint(checkpoint)
    assert caught.value.exit_code == code
    assert caught.value.where == str(checkpoint / name)


def test_a_read_that_fails_while_hashing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = manifest.build(checkpoint, jobs=1)
    refuse(monkeypatch, "tokenizer.json", errno.EIO)
    with pytest.raises(RetryableError):
        verify_checkpoint(checkpoint, manifest=known)


def test_a_source_that_cannot_be_read(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: Path) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self))

    monkeypatch.setattr(Path, "iterdir", gone)
    with pytest.raises(RetryableError):
        verify_checkpoint(checkpoint)


@pytest.mark.parametrize("name", [*FILES, "a shard"])
def test_a_link_to_nothing_is_a_finding(checkpoint: Path, name: str) -> None:
    path = checkpoint / (shard_of(checkpoint) if name == "a shard" else name)
    for target in ("nothing", path.name):
        path.unlink()
        path.symlink_to(target)
        report = verify_checkpoint(checkpoint)
        assert not report.ok


def test_no_directory_is_no_fault_of_the_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(VerificationError, match="cannot be read"):
            verify_checkpoint(path)
