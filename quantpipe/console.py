"""Output of a run: lines and bars for people, JSON lines for programs, and events.jsonl on disk for both.

Progress and logs go to stderr, data to stdout (the command prints that itself). Bars appear on a
terminal only. Everything that passes here is redacted first: no token, no signed URL; and no control
character reaches a terminal.

Nobody has to watch a run: when the terminal, the pipe or the log's disk behind stderr goes away, the run
goes on, and events.jsonl has everything.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from quantpipe.redact import redact
from quantpipe.text import now, printable

Mode = Literal["human", "json", "quiet"]


class Progress(Protocol):
    """A progress bar, or nothing where there is no terminal."""

    def advance(self, amount: int = 1) -> None:
        """Report `amount` more units as done; may be called from any thread."""
        ...

    def describe(self, text: str) -> None:
        """Show what is in progress now."""
        ...


class _Silent:
    def advance(self, amount: int = 1) -> None:
        """Nothing to show."""

    def describe(self, text: str) -> None:
        """Nothing to show."""


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._lock = threading.Lock()

    def advance(self, amount: int = 1) -> None:
        with self._lock:
            self._bar.update(amount)

    def describe(self, text: str) -> None:
        with self._lock:
            self._bar.set_description_str(
                printable(text)
            )  # and redraws: a bar without a total shows its time


class _Unfailing:
    """A text stream whose writes never raise: what is lost is only shown, never needed.

    Args:
        target: the stream itself; None where the process was started without a stderr.
    """

    def __init__(self, target: TextIO | None) -> None:
        self.target = target

    def write(self, text: str) -> int:
        """Write, or lose the text: a closed pipe (EPIPE), a full disk, a closed stream (ValueError)."""
        if self.target is not None:
            with contextlib.suppress(OSError, ValueError):
                self.target.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or lose what was written."""
        if self.target is not None:
            with contextlib.suppress(OSError, ValueError):
                self.target.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal that is still there."""
        with contextlib.suppress(OSError, ValueError):
            return self.target is not None and self.target.isatty()
        return False

    def fileno(self) -> int:
        """Its descriptor, by which tqdm finds the width of the terminal."""
        if self.target is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self.target.fileno()

    @property
    def encoding(self) -> str:
        """How it encodes, by which tqdm decides whether a bar may use more than ASCII."""
        return getattr(self.target, "encoding", None) or "utf-8"


class Console:
    """The one voice of a run.

    Args:
        mode: `human` lines and bars, `json` one object per event, `quiet` errors only.
        verbose: also show details.
        stream: where progress goes; stderr.
    """

    def __init__(self, mode: Mode = "human", *, verbose: bool = False, stream: TextIO | None = None) -> None:
        self.mode = mode
        self.verbose = verbose
        self._stream = _Unfailing(sys.stderr if stream is None else stream)
        self._events: Path | None = None
        self._lock = threading.Lock()

    def record_to(self, events: Path | None) -> None:
        """Append every event to this file from now on, as well."""
        self._events = events

    @property
    def interactive(self) -> bool:
        """Whether bars make sense here."""
        return self.mode == "human" and self._stream.isatty()

    def event(self, kind: str, **fields: Any) -> None:
        """Something happened: to events.jsonl, and to stderr in JSON mode."""
        line = redact(json.dumps({"time": now(), "event": kind, **fields}, ensure_ascii=False, default=str))
        with self._lock:
            if self._events is not None:
                with self._events.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
            if self.mode == "json":
                self._write(printable(line))

    def line(self, text: str, **fields: Any) -> None:
        """A line for people; an event for programs."""
        self.event("info", text=text, **fields)
        self._print(text)

    def detail(self, text: str, **fields: Any) -> None:
        """A line that only `-v` shows; always an event."""
        self.event("detail", text=text, **fields)
        if self.verbose:
            self._print(text)

    def warning(self, text: str, **fields: Any) -> None:
        """Something that the user should know, though the run continues."""
        self.event("warning", text=text, **fields)
        self._print(text, before=f"{self.styled('warning:', '33')} ")

    @contextlib.contextmanager
    def progress(self, description: str, total: int | None, unit: str = "it") -> Iterator[Progress]:
        """A bar for as long as the block runs.

        Args:
            total: in units; None where it is not known.
            unit: "B" scales by 1024 and shows bytes; anything else counts.

        Without a total, the description and the elapsed time are shown.
        """
        if not self.interactive:
            yield _Silent()
            return
        from tqdm import tqdm

        scale = unit == "B"
        with tqdm(
            total=total,
            desc=printable(description),
            unit=unit,
            unit_scale=scale,
            unit_divisor=1024 if scale else 1000,
            file=self._stream,
            leave=False,
            dynamic_ncols=True,
            bar_format=None if total is not None else "{desc} [{elapsed}]",
        ) as bar:
            yield _Bar(bar)

    def styled(self, text: str, code: str) -> str:
        """`text` in an ANSI style, where the terminal supports it and NO_COLOR is unset."""
        if not self.interactive or os.environ.get("NO_COLOR"):
            return text
        return f"\x1b[{code}m{text}\x1b[0m"

    def _print(self, text: str, *, before: str = "") -> None:
        """Show a line to people; `before` is ours and may have a style."""
        if self.mode != "human":
            return
        clean = before + printable(redact(text))
        with self._lock:
            if self.interactive:
                from tqdm import tqdm

                tqdm.write(clean, file=self._stream)
            else:
                self._write(clean)

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()
