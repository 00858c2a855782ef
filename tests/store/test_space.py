from __future__ import annotations

from pathlib import Path

import pytest

from quantpipe.errors import PreflightError
from quantpipe.store.space import Space, check_writable, existing


def test_space_is_read_from_the_nearest_folder(tmp_path: Path) -> None:
    assert existing(tmp_path / "not" / "yet") == tmp_path
    assert existing(Path("not/yet")) == Path()
    found = Space.below(tmp_path / "not" / "yet")
    assert 0 < found.free <= found.total


def test_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(PreflightError, match="not writable"):
        check_writable(tmp_path / "store")
