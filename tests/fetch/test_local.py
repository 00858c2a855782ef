from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from quantpipe.digest import hash_file
from quantpipe.errors import RecipeError, VerificationError
from quantpipe.fetch.hub import RemoteFile
from quantpipe.fetch.hubs import local
from quantpipe.fetch.hubs.local import LocalHub
from quantpipe.fetch.sources import select

from .conftest import MakeContext, model_files, write_files


def hub(store: Path, save_every: int = 1) -> LocalHub:
    return LocalHub(store, select, jobs=2, save_every=save_every)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_files(tmp_path / "models" / "Tiny", model_files())


def test_commit_is_the_content(source: Path, tmp_path: Path) -> None:
    first = hub(tmp_path / "a").resolve(str(source))
    copy = write_files(tmp_path / "elsewhere" / "Other", model_files())
    assert hub(tmp_path / "b").resolve(str(copy)) == first
    (copy / "config.json").write_bytes(b"{}")
    assert hub(tmp_path / "b").resolve(str(copy)) != first


def test_folder_names(tmp_path: Path) -> None:
    store = hub(tmp_path)
    assert store.folder("/data/models/Qwen3-30B-A3B") == "models/Qwen3-30B-A3B"
    assert store.folder("/data/my models/.x y/") == "my-models/x-y"
    assert store.folder("/one") == "root/one"


def test_hashes_survive_a_kill(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = hash_file
    hashed: list[str] = []

    def dying(path: Path, count: object = None) -> str:
        if len(hashed) == 4:
            raise KeyboardInterrupt
        hashed.append(path.name)
        return real(path)

    def counting(path: Path, count: object = None) -> str:
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(local, "hash_file", dying)
    with pytest.raises(KeyboardInterrupt):
        LocalHub(tmp_path / "store", select, jobs=1, save_every=1).resolve(str(source))
    first = list(hashed)
    hashed.clear()
    monkeypatch.setattr(local, "hash_file", counting)
    hub(tmp_path / "store").resolve(str(source))
    assert len(first) == 4
    assert not set(first) & set(hashed)
    assert len(first) + len(hashed) == len(model_files())


def test_damaged_table_is_ignored(source: Path, tmp_path: Path) -> None:
    commit = hub(tmp_path / "store").resolve(str(source))
    table = next((tmp_path / "store").rglob("hashes.json"))
    for text in ("{", "[1]", '[["a"]]', '{"a": 1}'):
        table.write_text(text)
        assert hub(tmp_path / "store").resolve(str(source)) == commit


def test_file_that_changes_while_it_is_copied(
    source: Path, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quantpipe.fetch.stage import FetchStage

    context = make_context(source)
    stage = FetchStage()
    stage.key(context)
    os.utime(source / "config.json")
    with pytest.raises(VerificationError, match="changed") as caught:
        stage.run(context)
    assert "config.json" in str(caught.value)


def test_not_a_directory(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="not a directory"):
        hub(tmp_path).resolve(str(source / "config.json"))


def test_no_weights(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="safetensors"):
        hub(tmp_path / "store").resolve(str(tmp_path / "empty"))


def test_list_gives_hashes(source: Path, tmp_path: Path) -> None:
    files = hub(tmp_path).list(str(source), "")
    assert all(isinstance(file, RemoteFile) and file.sha256 for file in files)
    assert [file.path for file in files] == sorted(model_files())


_NO_OP = """
import json, sys, time
from pathlib import Path
from fetch.child import main
main(sys.argv[1], "local", sys.argv[2], "2")
clients = ("huggingface_hub", "modelscope_hub", "requests", "httpx2", "torch", "urllib3")
sys.stdout.write("\\n" + json.dumps([name for name in clients if name in sys.modules]))
"""


def test_no_op_refresh_imports_no_client(source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _NO_OP, str(tmp_path / "store"), str(source)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    for _ in range(2):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        result, imported = map(json.loads, done.stdout.splitlines())
        assert imported == []
    assert result["figures"]["bytes_transferred"] == 0
    assert result["figures"]["seconds"] < 0.5
