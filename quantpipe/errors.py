"""Every error that quantpipe raises on purpose, and the exit code that each one becomes.

    QuantpipeError                    1    a stage failed and a retry alone will not help
    |-- UsageError                    2    the command line or the environment variables are wrong
    |-- RecipeError                   2    the recipe or one of its datasets is wrong
    |-- VerificationError             3    bytes or tensors are not what they should be
    |-- QualityError                  4    the quantized model is too far from the BF16 model
    |-- SmokeError                    4    the server failed to load, answered wrongly or not at all
    |-- PreflightError                5    this host lacks something: disk, memory, device, version
    |   `-- StorageFullError          5    the disk or the quota ran out
    |-- QuantizeError                 1    msmodelslim failed: its log is kept
    |-- LeaseHeldError               11    another run works on the same recipe
    |-- RetryableError               75    stopped cleanly, or a transient error: run again
    `-- InterruptedRunError         130    Ctrl-C

Only 11 and 75 are worth an automatic retry. Errors are raised where the cause is known and
rendered once, in cli/. The contract of the codes is docs/exit-codes.md.
"""

from __future__ import annotations

from collections.abc import Sequence


class QuantpipeError(Exception):
    """A failure that the user can act on.

    Args:
        what: what happened, in one line, without a trailing full stop.
        where: file, key, line or tensor; None when `what` already says it.
        hint: what to do next.
        details: further lines (all problems of a recipe, the last lines of a log).
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.details = tuple(details)

    def to_json(self) -> dict[str, object]:
        """The error as `--json` prints it."""
        return {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "what": self.what,
            "where": self.where,
            "hint": self.hint,
            "details": list(self.details),
        }

    def __str__(self) -> str:
        return f"{self.what} ({self.where})" if self.where else self.what


class UsageError(QuantpipeError):
    """The command line or an environment variable is wrong."""

    exit_code = 2


class RecipeError(QuantpipeError):
    """The recipe, or a dataset that it names, is wrong."""

    exit_code = 2


class VerificationError(QuantpipeError):
    """A file, a hash or a tensor is not what it should be."""

    exit_code = 3


class QualityError(QuantpipeError):
    """The checkpoint fails a quality gate of the recipe: nothing is published."""

    exit_code = 4


class SmokeError(QuantpipeError):
    """The checkpoint did not load, or did not answer as expected."""

    exit_code = 4


class PreflightError(QuantpipeError):
    """This host lacks something that the run needs: disk, memory, device, version."""

    exit_code = 5


class StorageFullError(PreflightError):
    """The disk or the quota ran out while writing."""


class QuantizeError(QuantpipeError):
    """msmodelslim failed, and running it again will not help."""


class LeaseHeldError(QuantpipeError):
    """Another run holds the lease on this recipe."""

    exit_code = 11


class RetryableError(QuantpipeError):
    """Stopped cleanly, or a transient error: rerun the same command to resume."""

    exit_code = 75


class InterruptedRunError(QuantpipeError):
    """The user pressed Ctrl-C; finished work is kept."""

    exit_code = 130
