from __future__ import annotations

import pytest

from quantpipe.errors import UsageError
from quantpipe.operate.budget import Budget, parse_seconds


@pytest.mark.parametrize(
    ("texts", "seconds", "size"),
    [
        ([], None, None),
        (["30m"], 1800, None),
        (["1.5h"], 5400, None),
        (["200GiB"], None, 200 << 30),
        (["1.5 TB"], None, 1_500_000_000_000),
        (["2h", "10MiB"], 7200, 10 << 20),
        (["90s", "1min"], 60, None),
    ],
)
def test_times_and_sizes(texts: list[str], seconds: float | None, size: int | None) -> None:
    assert Budget.parse(texts) == Budget(seconds, size)


@pytest.mark.parametrize("text", ["", "30", "m", "30 minutes", "-3m", "3GiBs", "1e3m", "200gib"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(UsageError, match="no amount") as caught:
        Budget.parse([text])
    assert "200GiB" in (caught.value.hint or "")


def test_an_age_is_a_time() -> None:
    assert parse_seconds("7d") == 7 * 86400
    with pytest.raises(UsageError):
        parse_seconds("7GiB")
