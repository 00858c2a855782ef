from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from helpers.receipts import (
    MANIFEST,
    QUALITY,
    SMOKE_FIGURES,
    fetch_receipt,
    publish_receipt,
    quantize_receipt,
    verify_receipt,
)

from quantpipe.errors import VerificationError
from quantpipe.store.outputs import (
    FetchedFile,
    FetchFigures,
    FetchOutput,
    PublishFigures,
    QuantizeOutput,
    Record,
    SmokeOutput,
    VerifyOutput,
)

FILE = FetchedFile("config.json", 2, 2, 0.1, 0, "fetched")
RECORDS: list[Record] = [
    *(receipt.outputs for receipt in (fetch_receipt(), quantize_receipt())),
    *(receipt.outputs for receipt in (verify_receipt("ab"), publish_receipt("ab"))),
    quantize_receipt().figures,
    QuantizeOutput("runs/tiny/1/staging/checkpoint", MANIFEST, QUALITY),
    verify_receipt("ab").figures,
    FetchFigures(1, 2, 2, 0.1, 0, (FILE,)),
    PublishFigures(None, 2),
    PublishFigures("ab", 3),
    SmokeOutput(),
    SMOKE_FIGURES,
]


@dataclass(frozen=True)
class Grown(Record):
    """A record to which a later version added a field."""

    first: int
    added: str = "none"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_what_is_written_is_read_back(record: Record) -> None:
    assert type(record).from_json(record.to_json(), where="x.json") == record


def test_the_json_is_plain_and_in_the_order_of_the_fields() -> None:
    assert list(SMOKE_FIGURES.to_json().items())[:2] == [("launcher", "cpu"), ("command", ["vllm", "serve"])]
    assert FetchFigures(1, 2, 2, 0.1, 0, (FILE,)).to_json()["per_file"] == [FILE.to_json()]
    assert PublishFigures(None, 2).to_json() == {"previous": None, "keep": 2}


def test_a_field_that_was_added_is_absent_from_the_json_while_it_has_its_default() -> None:
    assert Grown(1).to_json() == {"first": 1}
    assert Grown(1, "x").to_json() == {"first": 1, "added": "x"}
    assert Grown.from_json({"first": 1}, where="x.json") == Grown(1)
    assert Grown.from_json({"first": 1, "later": 2}, where="x.json") == Grown(1)


@pytest.mark.parametrize("value", [None, [], "x", {}, {"first": "1"}, {"first": True}, {"first": 1.5}])
def test_what_is_missing_or_of_another_type_is_an_error_that_names_file_and_field(value: Any) -> None:
    with pytest.raises(VerificationError, match="not a receipt") as caught:
        Grown.from_json(value, where="x.json")
    assert caught.value.where == "x.json"
    if isinstance(value, dict):
        assert "first: " in caught.value.what


@pytest.mark.parametrize("path", ["", "/etc", "../x", "a/../../x", "a\0b"])
def test_no_path_leads_out_of_the_store(path: str) -> None:
    for record, field in (
        (FetchOutput("a", "c", "m"), "snapshot"),
        (QuantizeOutput("a", MANIFEST), "checkpoint"),
        (VerifyOutput("a", "d"), "checkpoint"),
    ):
        with pytest.raises(VerificationError, match="is not inside the store"):
            type(record).from_json({**record.to_json(), field: path}, where="x.json")


def test_only_what_lies_in_the_run_moves_with_it() -> None:
    staged = QuantizeOutput("runs/tiny/1/staging/checkpoint", MANIFEST)
    assert staged.moved("runs/tiny/1", "runs/tiny/2").checkpoint == "runs/tiny/2/staging/checkpoint"
    assert staged.moved("runs/tiny/1/sta", "runs/tiny/2") == staged
    sealed = VerifyOutput("models/tiny/ab", "ab")
    assert sealed.moved("runs/tiny/1", "runs/tiny/2") == sealed


@pytest.mark.parametrize(
    "changed",
    [
        {"file": "/etc/passwd"},
        {"kl_mean": "0.1"},
        {"layers": [{"index": 1}]},
        {"top1": None},
        {"tokens": 1.5},
    ],
    ids=str,
)
def test_a_quality_that_was_edited_by_hand_is_refused(changed: dict[str, Any]) -> None:
    value = QuantizeOutput("runs/x", MANIFEST, QUALITY).to_json()
    value["quality"] |= changed
    with pytest.raises(VerificationError, match="not a receipt"):
        QuantizeOutput.from_json(value, where="x.json")


def test_a_checkpoint_that_was_not_measured_has_no_quality_in_its_json() -> None:
    assert "quality" not in QuantizeOutput("runs/x", MANIFEST).to_json()
