"""A smoke load of any checkpoint directory, outside of a pipeline run."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quantpipe.checkpoint.names import CONFIG
from quantpipe.checkpoint.strict_json import load_object
from quantpipe.console import Console
from quantpipe.errors import PreflightError, RecipeError, SmokeError, UsageError
from quantpipe.host.machine import npus
from quantpipe.recipe.model import Recipe
from quantpipe.recipe.serve import Serve
from quantpipe.recipe.smoke import Smoke
from quantpipe.settings import Settings
from quantpipe.smoke import scratch
from quantpipe.smoke.launchers import launcher_for
from quantpipe.smoke.load import smoke_load
from quantpipe.smoke.model import read_model
from quantpipe.smoke.rules import require_rules
from quantpipe.smoke.server_command import ServerCommand, reduced
from quantpipe.smoke.stage import reap
from quantpipe.store.outputs import SmokeFigures

_REHEARSAL_PROFILE = Serve(max_model_len=512, max_num_seqs=8)


@dataclass(frozen=True)
class Choice:
    """Options of the command line that override the recipe; None where not given."""

    launcher: str | None = None
    hardware: str | None = None
    url: str | None = None
    tp: int | None = None


@dataclass(frozen=True)
class Setup:
    """How to load a checkpoint.

    Attributes:
        smoke: the section to use.
        strict: the probes were made for this very model. Not so where a recipe for NPUs is rehearsed:
            the model that is rehearsed on a CPU is another one.
        named: address that the command line names: it may have the API key, as those of the settings.
    """

    smoke: Smoke
    strict: bool = True
    named: str | None = None


def setup(recipe: Recipe | None, choice: Choice, path: Path) -> Setup:
    """How to load `path`: by the recipe's smoke section or a small default, with the command line's options.

    A profile made for NPUs is reduced for launcher cpu.

    Raises:
        UsageError: an option is missing, such as the URL of launcher attach.
    """
    rehearsing = choice.launcher == "cpu" or (choice.launcher is None and recipe is None and not npus())
    if recipe is None:
        launcher = "cpu" if rehearsing else "native"
        serve = _REHEARSAL_PROFILE if rehearsing else Serve()
        return Setup(_changed(Smoke(serve=serve), choice, launcher), named=choice.url)
    smoke = recipe.smoke
    if not rehearsing or smoke.launcher == "cpu":
        return Setup(_changed(smoke, choice, smoke.launcher), named=choice.url)
    model = read_model(path)
    native = model.native_length if model else 0
    smoke = smoke.model_copy(update={"serve": reduced(smoke.serve, native, choice.tp or 1), "bench": None})
    return Setup(_changed(smoke, choice, "cpu"), strict=False)


def _changed(smoke: Smoke, choice: Choice, launcher: str) -> Smoke:
    update: dict[str, Any] = {"launcher": choice.launcher or launcher}
    update |= {key: value for key in ("hardware", "url") if (value := getattr(choice, key)) is not None}
    if update["launcher"] != "attach":
        update["unverified"] = False
    if choice.tp is not None:
        parallel = {"tensor_parallel_size": choice.tp}
        update["serve"] = smoke.serve.model_copy(update=parallel)
    try:
        return Smoke.model_validate({**dict(smoke), **update})
    except ValidationError as error:
        messages = [str(found["msg"]) for found in error.errors(include_url=False)]
        reasons = "; ".join(message.removeprefix("Value error, ") for message in messages)
        hint = "give --url or --hardware, or a recipe that has it"
        raise UsageError(reasons, where="--launcher", hint=hint) from error


def server_command(path: Path, setup: Setup, settings: Settings) -> ServerCommand:
    """What `smoke_directory` would start, with the profile checked as there.

    Raises:
        UsageError, PreflightError: the profile breaks a rule; launcher attach starts nothing.
    """
    checkpoint = path.absolute()
    _require_profile(setup.smoke, checkpoint)
    launcher = launcher_for(setup.smoke, settings, checkpoint)
    return launcher.command(checkpoint, settings.port or 8000, _run_prefix(checkpoint))


def smoke_directory(path: Path, setup: Setup, settings: Settings, console: Console) -> SmokeFigures:
    """Start a server on `path`, ask the probes, end it.

    Raises:
        UsageError: `path` is no directory.
        RecipeError: the profile breaks a rule.
        SmokeError, PreflightError: as `smoke_load`; the log is kept, and the error names it.
    """
    if not path.is_dir():
        raise UsageError("no such directory", where=str(path), hint="name a checkpoint directory")
    if not (path / CONFIG).is_file():
        hint = "name the directory that holds config.json and the shards"
        raise UsageError("no checkpoint: there is no config.json", where=str(path), hint=hint)
    _require_readable(path)
    checkpoint = path.absolute()
    _require_profile(setup.smoke, checkpoint)
    if setup.named is not None:
        urls = (*settings.api_key_urls, setup.named)
        settings = settings.model_copy(update={"api_key_urls": urls})
    launcher = launcher_for(setup.smoke, settings, checkpoint)
    prefix = _run_prefix(checkpoint)
    reap(launcher, lambda run_id: run_id.startswith(f"{prefix}-"), console)
    launcher.preflight()
    if not setup.strict:
        console.line("rehearsal of a recipe for NPUs: its answers are shown but do not count")
    run_id = f"{prefix}-{secrets.token_hex(4)}"
    with scratch.for_logs(run_id, prefix) as folder:
        try:
            return smoke_load(
                checkpoint,
                setup.smoke,
                launcher,
                log=folder.path / "smoke.log",
                run_id=run_id,
                console=console,
                strict=setup.strict,
            )
        except (SmokeError, PreflightError):
            folder.keep()  # the error names the log
            raise


def _require_profile(smoke: Smoke, checkpoint: Path) -> None:
    try:
        require_rules(smoke, read_model(checkpoint))
    except RecipeError as error:
        raise UsageError(error.what, where=error.where, hint=error.hint, details=error.details) from error


def _run_prefix(checkpoint: Path) -> str:
    """The part of the run id that all loads of one directory share: the next load finds leftovers by it."""
    return "smoke-" + hashlib.sha256(str(checkpoint).encode()).hexdigest()[:12]


def _require_readable(checkpoint: Path) -> None:
    """A server would wait for ever at a pipe, and take all memory for a device or a huge config.json.

    Raises:
        UsageError: something in the directory is no file, or config.json is no JSON within the limits.
    """
    for entry in sorted(checkpoint.iterdir()):
        if not (entry.is_file() or entry.is_dir()):
            raise UsageError(
                "neither a plain file nor a directory",
                where=str(entry),
                hint="a checkpoint holds plain files only: `quantpipe verify` names what else is wrong",
            )
    try:
        load_object(checkpoint / CONFIG)
    except ValueError as error:
        raise UsageError(
            f"the file {error}",
            where=str(checkpoint / CONFIG),
            hint="restore it: `quantpipe verify` names what else is wrong",
        ) from error
