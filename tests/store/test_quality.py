from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.receipts import QUALITY

from quantpipe.errors import VerificationError
from quantpipe.store.quality import PromptQuality, QualityReport, read_quality

REPORT = QualityReport(
    QUALITY,
    QUALITY.worst_linears,
    (PromptQuality((5, 7, 9), (-1.0, -2.0), (-1.1, -1.9), (0.01, 0.02)),),
)


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    assert read_quality(write(tmp_path / "quality.json", REPORT.to_json())) == REPORT


def test_what_a_later_version_added_is_ignored(tmp_path: Path) -> None:
    value = json.loads(json.dumps(REPORT.to_json()))
    value["more"] = value["summary"]["more"] = value["linears"][0]["more"] = value["prompts"][0]["more"] = [1]
    assert read_quality(write(tmp_path / "quality.json", value)) == REPORT


@pytest.mark.parametrize("value", [[], {}, {"summary": 1}, {"summary": {}, "linears": [], "prompts": []}])
def test_something_else_is_an_error_that_names_the_file(tmp_path: Path, value: Any) -> None:
    path = write(tmp_path / "quality.json", value)
    with pytest.raises(VerificationError, match="not a quality report") as caught:
        read_quality(path)
    assert caught.value.where == str(path)


def test_the_ratio_is_above_one_where_quantizing_has_made_the_model_worse() -> None:
    assert QUALITY.perplexity_ratio == pytest.approx(1.05)
