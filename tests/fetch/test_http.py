from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
import requests
import urllib3

from quantpipe.errors import PreflightError, RecipeError
from quantpipe.fetch.hub import PassingFault
from quantpipe.fetch.hubs.http import explain_status, passing, retry_after


def explain(status: int, **headers: str) -> Exception:
    return explain_status(status, {k.replace("_", "-"): v for k, v in headers.items()}, "x", "page")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_passing_statuses(status: int) -> None:
    assert isinstance(explain(status), PassingFault)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, PreflightError),
        (401, PreflightError),
        (403, PreflightError),
        (404, RecipeError),
        (410, RecipeError),
    ],
)
def test_refusals_say_what_to_do(status: int, kind: type[PreflightError]) -> None:
    error = explain(status)
    assert isinstance(error, kind)
    assert error.hint
    assert error.where == "page"


def test_retry_after_forms() -> None:
    assert retry_after({"Retry-After": "7"}) == 7.0
    assert retry_after({"Retry-After": "0.5"}) == 0.5
    assert retry_after({}) is None
    assert retry_after({"Retry-After": "soon"}) is None
    later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True)
    assert 25 < (retry_after({"Retry-After": later}) or 0) <= 30
    earlier = format_datetime(datetime.now(timezone.utc) - timedelta(seconds=30), usegmt=True)
    assert retry_after({"Retry-After": earlier}) == 0.0
    assert retry_after({"ratelimit": '"api";r=0;t=55'}) == 55.0
    assert retry_after({"ratelimit": '"api";r=10;t=55'}) is None


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("x"),
        requests.Timeout("x"),
        requests.exceptions.ChunkedEncodingError("x"),
        requests.exceptions.SSLError("x"),
        urllib3.exceptions.ProtocolError("x"),
        urllib3.exceptions.IncompleteRead(1, 2),
    ],
)
def test_faults_of_the_wire_pass(error: Exception) -> None:
    with pytest.raises(PassingFault) as caught, passing("f"):
        raise error
    assert caught.value.__suppress_context__


def test_wrong_endpoint_does_not_pass() -> None:
    with pytest.raises(PreflightError, match="address"), passing("f"):
        requests.get("nothttp://x", timeout=1)
