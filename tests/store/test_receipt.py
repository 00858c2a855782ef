from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.receipts import quantize_receipt

from quantpipe.errors import VerificationError
from quantpipe.stage import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "20260101T000000Z-abc123")
    directory.create()
    directory.create()  # harmless
    return directory


def test_receipts_are_kept_and_read_back(run: RunDirectory) -> None:
    assert run.load("quantize") is None
    run.save(quantize_receipt())
    assert run.load("quantize") == quantize_receipt()
    assert run.load("verify") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}", '{"stage": "fetch"}', '{"unheard": 1}'])
def test_what_is_no_receipt_is_an_error_that_says_what_to_do(run: RunDirectory, text: str) -> None:
    path = run.receipt_path("fetch")
    path.write_text(text)
    with pytest.raises(VerificationError, match="not a receipt") as caught:
        run.load("fetch")
    assert caught.value.where == str(path)
    assert "remove the file" in (caught.value.hint or "")


def test_the_state_is_changed_key_by_key(run: RunDirectory) -> None:
    assert run.state() == {}
    run.update_state(status="running", pid=7)
    run.update_state(status="failed")
    assert run.state() == {"status": "failed", "pid": 7}
    assert json.loads(run.state_path.read_text()) == run.state()


@pytest.mark.parametrize("text", ["", "nonsense", "[1]"])
def test_a_state_that_cannot_be_read_counts_as_none(run: RunDirectory, text: str) -> None:
    run.state_path.write_text(text)
    assert run.state() == {}


def test_the_id_is_the_name_of_the_folder(run: RunDirectory) -> None:
    assert run.id == "20260101T000000Z-abc123"
    assert run.logs.is_dir()
    assert not run.staging.exists()
