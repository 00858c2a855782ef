"""A server that is no hub, or a hostile one: whatever it sends, and however slowly, the question ends."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from quantpipe.errors import PreflightError
from quantpipe.fetch.hub import PassingFault
from quantpipe.fetch.hubs.answers import parse_answer, read_small, understood
from quantpipe.fetch.hubs.http import make_session

Behave = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def serve() -> Iterator[Callable[[Behave], str]]:
    """`serve(behave)`: the address of a server that does just that with each connection."""
    with contextlib.ExitStack() as stack:

        def start(behave: Behave) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def accept() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        threading.Thread(target=answer, args=(connection,), daemon=True).start()

            def answer(connection: socket.socket) -> None:
                with connection, contextlib.suppress(OSError):
                    connection.recv(65536)
                    behave(connection)

            threading.Thread(target=accept, daemon=True).start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}/"

        yield start


def ask(url: str, seconds: float = 20.0) -> bytes:
    with make_session(None) as session:
        return read_small(session, url, {}, what="the list", page="the page", seconds=seconds)


def endless(start: bytes) -> Behave:
    def pour(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b" " * (1 << 20))

    return pour


def dripping(start: bytes) -> Behave:
    def drip(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b"x")
            time.sleep(0.02)

    return drip


def test_an_answer_that_never_ends(serve: Callable[[Behave], str]) -> None:
    with pytest.raises(PreflightError, match="longer than 33,554,432 bytes"):
        ask(serve(endless(OK + b"\r\n")))


def test_a_redirect_whose_body_never_ends(serve: Callable[[Behave], str]) -> None:
    with pytest.raises(PassingFault, match="redirects"):
        ask(serve(endless(b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n")))


@pytest.mark.parametrize("start", [OK + b"Content-Length: 100000\r\n\r\n", OK + b"X-Long: ", b""])
def test_an_answer_that_comes_byte_by_byte(serve: Callable[[Behave], str], start: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(PassingFault, match=r"no complete answer within 0\.4 s"):
        ask(serve(dripping(start)), seconds=0.4)
    assert time.monotonic() - began < 5


def test_an_answer_that_ends_early(serve: Callable[[Behave], str]) -> None:
    with pytest.raises(PassingFault):
        ask(serve(lambda connection: connection.sendall(OK + b"Content-Length: 9\r\n\r\nshort")))


def test_a_compressed_answer_is_not_expanded(serve: Callable[[Behave], str]) -> None:
    body = b"\x1f\x8b\x08" + bytes(7)
    headers = b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n"
    assert ask(serve(lambda connection: connection.sendall(OK + headers + body))) == body
    with pytest.raises(PassingFault, match="the answer is not UTF-8"):
        parse_answer(body)


def test_what_makes_no_sense_is_refused_with_a_hint() -> None:
    def wrong() -> int:
        raise ValueError("lists nothing")

    with pytest.raises(PreflightError, match="the hub's answer for a/b lists nothing") as caught:
        understood(wrong, "a/b", "the page")
    assert "mirror" in (caught.value.hint or "")
