"""A smoke load of any checkpoint directory, outside of a pipeline run."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from quantpipe.console import Console
from quantpipe.errors import UsageError
from quantpipe.host import npus
from quantpipe.recipe import Recipe, Serve, Smoke
from quantpipe.settings import Settings
from quantpipe.smoke.command import ServerCommand, smoke_command
from quantpipe.smoke.stage import preflight, smoke_load

_REHEARSAL_PROFILE = Serve(max_model_len=512, max_num_seqs=8)


def section(recipe: Recipe | None, launcher: str | None) -> Smoke:
    """The smoke section to use: the recipe's or a small default one, with the launcher asked for."""
    if recipe is not None:
        return recipe.smoke if launcher is None else recipe.smoke.model_copy(update={"launcher": launcher})
    chosen = launcher or ("native" if npus() else "cpu")
    serve = _REHEARSAL_PROFILE if chosen == "cpu" else Serve()
    return Smoke(launcher=cast(Any, chosen), serve=serve)


def command(path: Path, smoke: Smoke, settings: Settings) -> ServerCommand:
    """What `load` would start."""
    return smoke_command(
        smoke.launcher, settings.serve_python, path.absolute(), smoke.serve, settings.port or 8000
    )


def load(path: Path, smoke: Smoke, settings: Settings, console: Console) -> dict[str, Any]:
    """Start a server on `path`, ask the probes, end it.

    Raises:
        UsageError: `path` is no directory.
        SmokeError, PreflightError: as `smoke_load`; the log is kept and named.
    """
    if not path.is_dir():
        raise UsageError("no such directory", where=str(path), hint="name a checkpoint directory")
    preflight(smoke, settings)
    folder = Path(tempfile.mkdtemp(prefix="quantpipe-smoke-"))
    log = folder / "smoke.log"
    figures = smoke_load(path.absolute(), smoke, settings, log, f"smoke-{secrets.token_hex(4)}", console)
    shutil.rmtree(folder, ignore_errors=True)
    return figures
