from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from quantpipe.errors import PreflightError, QuantpipeError, RetryableError, StorageFullError
from quantpipe.store.faults import is_storage_fault, storage_error, storage_faults

KINDS: list[tuple[int, type[QuantpipeError], int]] = [
    (errno.ENOSPC, StorageFullError, 5),
    (errno.EDQUOT, StorageFullError, 5),
    (errno.EROFS, PreflightError, 5),
    (errno.EACCES, PreflightError, 5),
    (errno.EPERM, PreflightError, 5),
    (errno.EMFILE, PreflightError, 5),
    (errno.EFBIG, PreflightError, 5),
    (errno.ENAMETOOLONG, PreflightError, 5),
    (errno.ENOTDIR, PreflightError, 5),
    (errno.ELOOP, PreflightError, 5),
    (errno.EXDEV, PreflightError, 5),
    (errno.EOPNOTSUPP, PreflightError, 5),
    (errno.ESTALE, RetryableError, 75),
    (errno.ETIMEDOUT, RetryableError, 75),
    (errno.EIO, RetryableError, 75),
    (errno.EINTR, RetryableError, 75),
    (errno.EBUSY, RetryableError, 75),
    (errno.ENFILE, RetryableError, 75),
]


@pytest.mark.parametrize(("number", "kind", "code"), KINDS)
def test_a_fault_becomes_its_error_with_the_file_and_a_hint(
    number: int, kind: type[QuantpipeError], code: int
) -> None:
    with pytest.raises(kind) as caught, storage_faults("/store"):
        raise OSError(number, "said by the system", "/store/runs/x")
    assert type(caught.value) is kind
    assert caught.value.exit_code == code
    assert caught.value.where == "/store/runs/x"
    assert os.strerror(number) in caught.value.what
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, OSError)


def test_a_call_that_names_no_file_gets_the_place_that_was_worked_on(tmp_path: Path) -> None:
    found = storage_error(OSError(errno.ENOSPC, "No space left on device"), tmp_path)
    assert found is not None
    assert found.where == str(tmp_path)


def test_a_rename_names_both_paths() -> None:
    found = storage_error(OSError(errno.EXDEV, "Invalid cross-device link", b"/a", None, "/b"), "/")
    assert found is not None
    assert found.where == "/a -> /b"


def test_a_file_elsewhere_that_may_not_be_read_is_not_called_the_store() -> None:
    found = storage_error(PermissionError(errno.EACCES, "Permission denied", "/data/config.json"), "/store")
    assert found is not None
    assert "store" not in str(found)
    assert found.where == "/data/config.json"


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENOENT, errno.EINVAL])
def test_other_system_errors_pass(number: int) -> None:
    assert not is_storage_fault(number)
    with pytest.raises(OSError) as caught, storage_faults("/store"):
        raise OSError(number, os.strerror(number))
    assert caught.value.errno == number


def test_an_error_without_a_number_passes() -> None:
    assert storage_error(OSError("out of words"), "/store") is None
    assert not is_storage_fault(None)
