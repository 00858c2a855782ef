"""Standard streams that may be closed, or lead to a reader that has gone or a disk that is full.

What is not flushed when the interpreter ends would make its exit status 120, and a closed descriptor would
be given to the next file that is opened.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from quantpipe.errors import PreflightError


def open_missing() -> None:
    """Let descriptors 0 to 2 be open: else a file of the store could become the stderr of a child."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor: this one


def unwritable(error: OSError) -> PreflightError:
    """The error for data that stdout does not take."""
    return PreflightError(
        f"the result cannot be written: {error.strerror}",
        where="stdout",
        hint="write it elsewhere, or free space",
    )


def settle() -> None:
    """Flush stdout and stderr; what cannot be written is dropped."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            drop(stream)


def drop(stream: TextIO | None) -> None:
    """Let what a stream still buffers, and what is written from now on, go nowhere."""
    with contextlib.suppress(OSError, ValueError):
        if stream is not None:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
            stream.flush()
