from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from quantpipe import durable
from quantpipe.errors import PreflightError, QuantpipeError, RetryableError
from quantpipe.store.space import Space, check_semantics, check_store, check_writable, existing


def test_space_is_read_from_the_nearest_folder(tmp_path: Path) -> None:
    assert existing(tmp_path / "not" / "yet") == tmp_path
    assert existing(Path("not/yet")) == Path()
    found = Space.below(tmp_path / "not" / "yet")
    assert 0 < found.free <= found.total


def test_semantics_leave_nothing_behind(tmp_path: Path) -> None:
    check_semantics(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_the_trial_of_a_store_leaves_no_folder_that_was_not_there(tmp_path: Path) -> None:
    check_store(tmp_path / "deep" / "store")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EROFS, PreflightError),
        (errno.EACCES, PreflightError),
        (errno.EINVAL, PreflightError),
        (errno.EOPNOTSUPP, PreflightError),
        (errno.EIO, RetryableError),
    ],
)
@pytest.mark.parametrize("call", ["fsync_file", "fsync_directory"])
def test_store_that_cannot_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, kind: type[QuantpipeError]
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(durable, call, refuse)
    with pytest.raises(kind) as caught:
        check_semantics(tmp_path)
    assert caught.value.hint
    assert caught.value.where == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_store_without_symbolic_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(PreflightError):
        check_semantics(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_renames_that_do_not_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "write_bytes", lambda path, data: path.write_bytes(b"old"))
    with pytest.raises(PreflightError, match="did not replace the file"):
        check_semantics(tmp_path)


def test_store_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(PreflightError, match="not writable"):
        check_writable(tmp_path / "store")
    with pytest.raises(PreflightError) as caught:
        check_store(tmp_path / "store")
    assert caught.value.where == str(tmp_path / "store")
    assert (tmp_path / "store").is_file()
