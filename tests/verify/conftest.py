"""Checkpoints by the real msmodelslim, made once and kept in pytest's cache; each test edits a copy."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("QUANTPIPE_QUANTIZE_PYTHON") or ROOT / ".venv-quantize" / "bin" / "python")
SCRIPT = Path(__file__).with_name("make_checkpoints.py")
KINDS = ("v1-moe", "v1-moe-smooth", "v1-dense", "v1-qwen2", "v1-tied", "v0-moe")


@pytest.fixture(scope="session")
def made(pytestconfig: pytest.Config) -> Path:
    """The folder with one checkpoint of each kind and their BF16 sources, as msmodelslim left them."""
    if not PYTHON.exists():
        pytest.skip("needs .venv-quantize")
    key = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()[:16]
    assert pytestconfig.cache is not None
    folder = Path(pytestconfig.cache.mkdir("quantpipe-checkpoints")) / key
    with FileLock(f"{folder}.lock", timeout=600):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
            folder.mkdir(parents=True, exist_ok=True)
            run = subprocess.run(
                [str(PYTHON), str(SCRIPT), str(folder), *KINDS],
                env=environment,
                cwd=folder,  # msmodelslim's V0 leaves a features.npy where it runs
                capture_output=True,
                text=True,
            )
            assert run.returncode == 0, run.stderr[-3000:]
            (folder / "done").touch()
    return folder


@pytest.fixture
def copy_of(made: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Give a writable copy of a checkpoint, with the modes of a sealed one."""

    def copy(kind: str) -> Path:
        target = tmp_path / kind
        shutil.copytree(made / kind, target)
        for path in target.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        return target

    return copy
