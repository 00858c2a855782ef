"""HTTP to the server under test."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from quantpipe.errors import SmokeError
from quantpipe.smoke import client as module
from quantpipe.smoke.client import Client
from quantpipe.smoke.session import Session


def test_an_answer_that_drips_is_given_up_in_time(server: Callable[[str], Session]) -> None:
    """Each byte comes soon, the whole never does."""
    client = server("drips").client
    began = time.monotonic()
    with pytest.raises(SmokeError, match="no answer within 1 s"):
        Client(client.url, 1).json("/v1/completions", {})
    assert time.monotonic() - began < 5


def test_a_key_is_sent_and_never_shown(server: Callable[[str], Session]) -> None:
    client = server("locked").client
    with pytest.raises(SmokeError, match="HTTP 401") as caught:
        client.json("/v1/models")
    assert "VLLM_API_KEY" in (caught.value.hint or "")
    key = Client(client.url, 10, "geheim")
    assert key.json("/v1/models")["data"]
    assert "geheim" not in repr(key)


def test_redirects_are_not_followed(server: Callable[..., Session]) -> None:
    """The key would go along, to whatever host the answer names."""
    target = server("ready").client.url
    moved = server("moved", target).client
    with pytest.raises(SmokeError, match=f"HTTP 302: a redirect to '{target}/v1/models'") as caught:
        Client(moved.url, 10, "geheim").json("/v1/models")
    assert "not followed" in (caught.value.hint or "")


@pytest.mark.parametrize(("mode", "said"), [("endless", "more than 1 MiB"), ("deep", "RecursionError")])
def test_an_answer_has_bounds(
    server: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, mode: str, said: str
) -> None:
    monkeypatch.setattr(module, "_LARGEST_ANSWER", 1 << 20)
    with pytest.raises(SmokeError, match=said):
        server(mode).client.json("/v1/completions", {})
    if mode == "endless":
        with pytest.raises(SmokeError, match=said):
            server(mode).client.stream("/v1/completions", {})
