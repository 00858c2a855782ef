from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import quantpipe, write_recipe

from quantpipe.checkpoint.layout import GIB
from quantpipe.console import Console
from quantpipe.errors import UsageError, VerificationError
from quantpipe.recipe.load import load_recipe
from quantpipe.verify.standalone import Options, layout_of, run_verify, target_of
from verify import edit

CopyOf = Callable[[str], Path]


def verify(path: Path, **options: Any) -> Any:
    return run_verify(path, Options(**options), Console("quiet", stream=io.StringIO()))


@pytest.mark.parametrize("target", ["0.23.0", "vllm-ascend==0.23.0", "0.21.0rc1", "main"])
def test_target(target: str) -> None:
    assert target_of(Options(target=target)) == target.rpartition("=")[2]


@pytest.mark.parametrize("target", ["", "latest", "vllm==0.23.0", "0.23"])
def test_no_target(target: str) -> None:
    with pytest.raises(UsageError, match="not a version"):
        target_of(Options(target=target))


def test_layout_of_flags_and_recipe(tmp_path: Path) -> None:
    assert layout_of(Options()) is None
    flags = layout_of(Options(tp=8, ep=True, device_memory=64))
    assert flags is not None
    assert (flags.tp, flags.dp, flags.ep, flags.device_memory) == (8, 1, True, 64 * GIB)
    recipe = load_recipe(write_recipe(tmp_path, smoke={"serve": {"tensor_parallel_size": 2}}))
    both = layout_of(Options(recipe=recipe, dp=4))
    assert both is not None
    assert (both.tp, both.dp) == (2, 4)
    assert target_of(Options(recipe=recipe)) == recipe.verify.target


@pytest.mark.quantize_env
class TestCheckpoints:
    def test_manifest_is_written_once_and_then_checked(self, copy_of: CopyOf) -> None:
        path = copy_of("v1-moe")
        assert "C1" in verify(path).skipped
        assert verify(path, write_manifest=True).ok
        written = json.loads((path / "quantpipe.json").read_text())
        assert written["manifest"]["algorithm"] == "sha256"
        for deep in (False, True):
            report = verify(path, deep=deep, write_manifest=True)
            assert report.findings == ()
            assert "C1" in report.passed
        assert json.loads((path / "quantpipe.json").read_text()) == written
        assert "C1" in verify(path, hashes=False).skipped

    @pytest.mark.parametrize("deep", [False, True])
    def test_changed_added_and_missing_files(self, copy_of: CopyOf, deep: bool) -> None:
        path = copy_of("v1-moe")
        verify(path, write_manifest=True)
        edit.change(path, "model.embed_tokens.weight", lambda a: a * 2)
        (path / "generation_config.json").unlink()
        (path / "notes.txt").write_text("mine")
        report = verify(path, deep=deep)
        assert {f.id for f in report.errors} == {"C1"}
        found = {f.text: set(f.where) for f in report.errors}
        assert found["the file is not in the manifest"] == {"notes.txt"}
        assert found["the file is missing though the manifest names it"] == {"generation_config.json"}
        assert edit.shard_of(path).name in found["the file differs from its manifest"]

    def test_a_failing_checkpoint_gets_no_manifest(self, copy_of: CopyOf) -> None:
        path = copy_of("v1-moe")
        (path / "tokenizer.json").unlink()
        assert not verify(path, write_manifest=True).ok
        assert not (path / "quantpipe.json").exists()

    @pytest.mark.parametrize("content", ["[]", "{", '{"manifest": 7}'])
    def test_broken_provenance(self, copy_of: CopyOf, content: str) -> None:
        path = copy_of("v1-moe")
        (path / "quantpipe.json").write_text(content)
        with pytest.raises(VerificationError):
            verify(path)

    def test_command_line(self, copy_of: CopyOf, made: Path) -> None:
        path = copy_of("v1-moe")
        done = quantpipe("verify", path, "--deep", "--against", made / "bf16-moe", "--tp", "2", "--ep")
        assert done.status == 0, done.stderr
        assert done.stdout.startswith("passed: ")
        failed = quantpipe("verify", path, "--tp", "3", "--json", "--target", "vllm-ascend==0.26.0")
        assert failed.status == 3
        assert {finding["id"] for finding in failed.json()["findings"]} == {"A10"}
        assert failed.json()["target"] == "0.26.0"
        bf16 = quantpipe("verify", made / "bf16-moe")
        assert bf16.status == 3
        assert "not quantized" in bf16.stdout


def test_usage(tmp_path: Path) -> None:
    done = quantpipe("verify", tmp_path / "nowhere")
    assert done.status == 2
    assert "no such directory" in done.stderr
    empty = quantpipe("verify", tmp_path)
    assert empty.status == 3
    assert "not a checkpoint" in empty.stdout
