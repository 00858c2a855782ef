"""The error of a strict load."""

from __future__ import annotations

from collections.abc import Sequence

from quantpipe.errors import VerificationError

_SHOWN = 12


class CheckpointLoadError(VerificationError):
    """The checkpoint is not valid for `--quantization ascend`.

    vLLM shows nothing of an exception but its text, and that only in the log of the process where
    it was raised: so, unlike its base classes, this error has everything in its text.
    """

    def __str__(self) -> str:
        lines = [super().__str__(), *(f"  {line}" for line in shorten(self.details))]
        if self.hint:
            lines.append(f"  next: {self.hint}")
        return "\n".join(lines)


def shorten(lines: Sequence[str]) -> list[str]:
    """At most a screen of lines, and how many more there are."""
    rest = len(lines) - _SHOWN
    return [*lines[:_SHOWN], *([f"... and {rest} more"] if rest > 0 else [])]
