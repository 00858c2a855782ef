from __future__ import annotations

import errno
import io
import json
import sys
import threading
from pathlib import Path

import pytest

from quantpipe.console import Console, Mode


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def all_kinds(console: Console) -> None:
    console.line("a line", stage="fetch")
    console.detail("a detail")
    console.warning("a warning")
    console.event("probe", text="silent")


def test_people_get_lines_and_no_styles_off_a_terminal() -> None:
    stream = io.StringIO()
    all_kinds(Console(stream=stream))
    assert stream.getvalue() == "a line\nwarning: a warning\n"


def test_verbose_adds_details() -> None:
    stream = io.StringIO()
    all_kinds(Console(verbose=True, stream=stream))
    assert "a detail" in stream.getvalue().splitlines()


def test_quiet_says_nothing() -> None:
    stream = io.StringIO()
    all_kinds(Console("quiet", stream=stream))
    assert stream.getvalue() == ""


def test_programs_get_one_object_per_line() -> None:
    stream = io.StringIO()
    all_kinds(Console("json", stream=stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["info", "detail", "warning", "probe"]
    assert events[0]["text"] == "a line"
    assert events[0]["stage"] == "fetch"
    assert all(event["time"].endswith("Z") for event in events)


@pytest.mark.parametrize("mode", ["human", "json", "quiet"])
def test_the_events_file_holds_everything_in_every_mode(mode: Mode, tmp_path: Path) -> None:
    console = Console(mode, stream=io.StringIO())
    console.line("before: not recorded")
    console.record_to(tmp_path / "events.jsonl")
    all_kinds(console)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events] == ["info", "detail", "warning", "probe"]


class Broken(Terminal):
    """A terminal that has gone."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EBADF, errno.EIO, None])
@pytest.mark.parametrize("mode", ["human", "json", "quiet"])
def test_a_stream_that_cannot_be_written_costs_nothing_but_what_it_shows(
    mode: Mode, number: int | None, tmp_path: Path
) -> None:
    error = ValueError("I/O operation on closed file") if number is None else OSError(number, "x")
    console = Console(mode, verbose=True, stream=Broken(error))
    console.record_to(tmp_path / "events.jsonl")
    all_kinds(console)
    for total in (10, None):
        with console.progress("hash", total) as bar:
            bar.advance(3)
            bar.describe("still")
            console.line("in between")
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 6


def test_closed_stream_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    console = Console(stream=stream)
    stream.close()
    all_kinds(console)
    monkeypatch.setattr(sys, "stderr", None)
    all_kinds(Console())


@pytest.mark.parametrize("mode", ["human", "json"])
@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_no_control_character_passes(mode: Mode, kind: type[io.StringIO]) -> None:
    stream = kind()
    console = Console(mode, verbose=True, stream=stream)
    for say in (console.line, console.detail, console.warning):
        say("model-\x1b]0;pwned\x07\x9b2J.safetensors")
    shown = stream.getvalue().replace("\x1b[33mwarning:\x1b[0m", "warning:")
    assert shown.count("pwned") == 3
    assert all(char.isprintable() or char == "\n" for char in shown)


def test_no_secret_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cret-token-value")
    for mode in ("human", "json"):
        stream = io.StringIO()
        console = Console(mode, verbose=True, stream=stream)
        console.record_to(tmp_path / mode)
        console.line("with s3cret-token-value")
        console.warning("from https://user:pass@host/x?X-Amz-Signature=abcdef")
        console.event("x", header={"deep": ["Bearer hf_abcdefgh12345678"]})
        for said in (stream.getvalue(), (tmp_path / mode).read_text()):
            assert said
            for secret in ("s3cret", "pass@", "abcdef"):
                assert secret not in said


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    console = Console("json", stream=io.StringIO())
    console.record_to(tmp_path / "events")

    def talk(number: int) -> None:
        for _ in range(50):
            console.event("x", text=str(number) * 500)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "events").read_text().splitlines()
    assert len(lines) == 200
    assert all(len(set(json.loads(line)["text"])) == 1 for line in lines)


def test_bars_are_for_terminals_only() -> None:
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        with Console(stream=stream).progress("hash", 2048, unit="B") as bar:
            bar.advance(1024)
            bar.describe("still hashing")
        assert ("hash" in stream.getvalue()) is shown
    stream = Terminal()
    with Console("json", stream=stream).progress("hash", 10) as bar:
        bar.advance()
    assert stream.getvalue() == ""


def test_lines_pass_above_a_bar() -> None:
    stream = Terminal()
    console = Console(stream=stream)
    with console.progress("hash", 10) as bar:
        bar.advance(3)
        console.line("in between")
    assert "in between\n" in stream.getvalue()


def test_colour_on_a_terminal_unless_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Console(stream=Terminal()).styled("x", "33") == "\x1b[33mx\x1b[0m"
    assert Console(stream=io.StringIO()).styled("x", "33") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Console(stream=Terminal()).styled("x", "33") == "x"
