from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantpipe.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can pass through; those of pytest are the user's own."""
    if os.geteuid():
        pytest.skip("needs root, to become other users")
    folder = Path(tempfile.mkdtemp(prefix="quantpipe-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
