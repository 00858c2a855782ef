"""The command line: parse, call, render. No logic here; imports wait for the command that needs them.

One file per group of verbs; options.py has what they share, render.py all that they print.
"""

from __future__ import annotations

import contextlib
import sys
from typing import NoReturn

import click

from quantpipe import __version__
from quantpipe.cli import doctor, recipe, report, run, scrub, smoke, status, store, streams, verify
from quantpipe.cli.command import Root
from quantpipe.cli.emit import fail
from quantpipe.console import Console
from quantpipe.errors import InterruptedRunError, PreflightError, QuantpipeError, UsageError


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="quantpipe")
def cli() -> None:
    """One recipe in, one verified, servable W8A8 checkpoint for vLLM-Ascend out.

    Exit codes: 0 done or up to date, 1 a stage failed, 2 usage or recipe error, 3 verification failed,
    4 smoke or quality gate failed, 5 preflight failed (disk, memory, device, version),
    11 another run holds the lease, 75 transient error: run again, 130 interrupted.
    """


for command in (
    run.run,
    run.plan,
    status.status,
    report.report,
    verify.verify,
    smoke.smoke,
    store.rollback,
    store.prune,
    scrub.scrub,
    doctor.doctor,
    recipe.recipe_group,
):
    cli.add_command(command)


def main() -> NoReturn:
    """The console script: every error rendered in one place, every exit code from the error itself."""
    streams.open_missing()
    console = Console()
    try:
        _call(console)
    finally:
        streams.settle()


def _call(console: Console) -> NoReturn:
    try:
        cli.main(standalone_mode=False, obj=console)
    except QuantpipeError as error:
        fail(console, error)
    except (KeyboardInterrupt, click.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # a .pyc file that a full disk cut off, say: click aborts
            fail(console, _unexpected(error.__cause__))
        fail(console, InterruptedRunError("interrupted", hint="rerun the same command to resume"))
    except click.exceptions.NoArgsIsHelpError as error:
        with contextlib.suppress(OSError):  # the exit code says the most important
            error.show()
        sys.exit(UsageError.exit_code)
    except click.ClickException as error:
        fail(console, _usage(error))
    except Exception as error:
        fail(console, _fault_of_storage(error) or _limit_of_host(error) or _unexpected(error))
    sys.exit(0)


def _usage(error: click.ClickException) -> UsageError:
    """A click error about the command line, as a UsageError."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "quantpipe"
    what = error.format_message().rstrip(".").replace(". (", " (")
    return UsageError(what[:1].lower() + what[1:], where=command, hint=f"{command} --help")


def _fault_of_storage(error: Exception) -> QuantpipeError | None:
    """The error of a full disk or a lost mount, which is not a bug; None for any other error."""
    from quantpipe.store.faults import storage_error

    return storage_error(error, where="") if isinstance(error, OSError) else None


def _limit_of_host(error: Exception) -> QuantpipeError | None:
    """The error for too little memory or too few threads, which is no bug; None for any other error."""
    if isinstance(error, MemoryError):
        what, limit = "out of memory", "`ulimit -v`"
    elif isinstance(error, RuntimeError) and "start new thread" in str(error):
        what, limit = "no more threads: out of memory or of processes", "`ulimit -v`, `ulimit -u`"
    else:
        return None
    return PreflightError(
        what,
        hint=f"use a host with more memory, or raise the limits ({limit}, the container's), then run again: "
        "finished work is kept",
    )


def _unexpected(error: Exception) -> QuantpipeError:
    """An unexpected fault, of quantpipe or of the machine; finished work is kept."""
    import traceback

    return QuantpipeError(
        f"unexpected {type(error).__name__}: {error}",
        hint="run again; if it happens again, report it with these lines",
        details="".join(traceback.format_exception(error)).splitlines(),
    )
