"""The command line: parse, call, render. No logic here; imports wait for the command that needs them."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from quantpipe import __version__
from quantpipe.console import Console, Mode
from quantpipe.errors import InterruptedRunError, QuantpipeError, RetryableError

if TYPE_CHECKING:
    from quantpipe.recipe.model import Recipe
    from quantpipe.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])
_STAGE = click.Choice(("fetch", "quantize", "verify", "smoke", "publish"))
_PATH = click.Path(path_type=Path)


def _output_options(command: Command) -> Command:
    """`--json`, `-q` and `-v`, turned into a console."""

    @click.option("--json", "as_json", is_flag=True, help="JSON on stdout, events as JSON lines on stderr.")
    @click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
    @click.option("-v", "--verbose", is_flag=True, help="Say more.")
    @wraps(command)
    def wrapped(*args: Any, as_json: bool, quiet: bool, verbose: bool, **options: Any) -> Any:
        mode: Mode = "json" if as_json else "quiet" if quiet else "human"
        context = click.get_current_context()
        context.obj = console = Console(mode, verbose=verbose)
        return command(*args, console=console, **options)

    return wrapped  # type: ignore[return-value]


def _settings_options(command: Command) -> Command:
    """The settings that commands share, turned into `Settings`."""

    @click.option("--store", type=_PATH, help="Root of the store. [QUANTPIPE_STORE; ./store]")
    @click.option("--quantize-python", type=_PATH, help="Interpreter with msmodelslim. [.venv-quantize]")
    @click.option("--serve-python", type=_PATH, help="Interpreter with vLLM. [.venv-serve]")
    @click.option("--jobs", type=int, help="Files fetched or hashed at a time.")
    @click.option("--port", type=int, help="Port of the smoke server. [a free one]")
    @wraps(command)
    def wrapped(
        *args: Any,
        store: Path | None,
        quantize_python: Path | None,
        serve_python: Path | None,
        jobs: int | None,
        port: int | None,
        **options: Any,
    ) -> Any:
        from quantpipe.settings import Settings

        settings = Settings.resolve(
            store=store, quantize_python=quantize_python, serve_python=serve_python, jobs=jobs, port=port
        )
        return command(*args, settings=settings, **options)

    return wrapped  # type: ignore[return-value]


def _load(path: Path) -> Recipe:
    from quantpipe.recipe import load as recipe_file

    return recipe_file.load(path)


def _emit(console: Console, value: Any, lines: list[str]) -> None:
    """A command's data, on stdout: JSON for programs, lines for people, nothing when quiet."""
    if console.mode == "json":
        click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
    elif console.mode == "human":
        for line in lines:
            click.echo(line)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="quantpipe")
def cli() -> None:
    """One recipe in, one verified, servable W8A8 checkpoint for vLLM-Ascend out.

    Exit codes: 0 done or up to date, 1 a stage failed, 2 usage or recipe, 3 verification,
    4 smoke or quality, 5 preflight (disk, memory, device, version), 11 another run holds the
    lease, 75 run again, 130 interrupted.
    """


@cli.command()
@click.argument("recipe", type=_PATH)
@click.option(
    "--from", "first", type=_STAGE, help="Begin with this stage; those before have to be up to date."
)
@click.option("--until", "last", type=_STAGE, help="End after this stage.")
@click.option("--force", type=_STAGE, help="Run this stage and all behind it, even if up to date.")
@click.option("--deep", is_flag=True, help="Hash the snapshot again instead of trusting size and time.")
@_settings_options
@_output_options
def run(
    recipe: Path,
    first: str | None,
    last: str | None,
    force: str | None,
    deep: bool,
    settings: Settings,
    console: Console,
) -> None:
    """Take RECIPE to a published checkpoint. Continues what an earlier run began."""
    from quantpipe import pipeline
    from quantpipe.cli import render

    signal.signal(signal.SIGTERM, _on_sigterm)
    loaded = _load(recipe)
    outcome = pipeline.run(loaded, settings, console, pipeline.Selection(first, last, force, deep))
    _emit(console, *render.outcome(loaded, settings, outcome))


@cli.command()
@click.argument("recipe", type=_PATH)
@_settings_options
@_output_options
def plan(recipe: Path, settings: Settings, console: Console) -> None:
    """What a run of RECIPE would do, with bytes, disk and memory. Exits 5 where it could not."""
    from quantpipe import pipeline
    from quantpipe.cli import render

    plans, obstacles = pipeline.plan(_load(recipe), settings, console)
    _emit(console, *render.plans(plans, obstacles))
    if obstacles:
        sys.exit(obstacles[0].exit_code)


@cli.command()
@click.argument("recipe", type=_PATH, required=False)
@_settings_options
@_output_options
def status(recipe: Path | None, settings: Settings, console: Console) -> None:
    """What is published, what is running, what failed and why."""
    from quantpipe.cli import render
    from quantpipe.store import status
    from quantpipe.store.store import Store

    name = _load(recipe).name if recipe else None
    _emit(console, *render.statuses(status.collect(Store(settings.store), name)))


@cli.command()
@click.argument("path", type=_PATH)
@click.option("--recipe", type=_PATH, help="Take the target and the serve profile from this recipe.")
@click.option("--against", type=_PATH, help="Compare the weights with this BF16 directory.")
@click.option("--tp", type=click.IntRange(min=1), help="Tensor parallel size.")
@click.option("--dp", type=click.IntRange(min=1), help="Data parallel size.")
@click.option("--ep", is_flag=True, help="Expert parallel.")
@click.option("--target", help="The version that has to load it. [vllm-ascend==0.23.0]")
@click.option("--device-memory", type=click.FloatRange(min=0, min_open=True), help="GiB of one device.")
@click.option("--deep", is_flag=True, help="Read all values, not only headers.")
@click.option("--hashes/--no-hashes", default=True, help="Compare files with the manifest. [--hashes]")
@click.option("--write-manifest", is_flag=True, help="Give a checkpoint that passes a manifest.")
@_settings_options
@_output_options
def verify(path: Path, recipe: Path | None, settings: Settings, console: Console, **options: Any) -> None:
    """Check the checkpoint directory PATH, ours or not: will vLLM-Ascend serve it rightly?"""
    from quantpipe.verify.standalone import Options, run_verify

    loaded = _load(recipe) if recipe else None
    report = run_verify(path, Options(recipe=loaded, jobs=settings.jobs, **options), console)
    _emit(console, report.to_json(), report.lines())
    if not report.ok:
        sys.exit(3)


@cli.command()
@click.argument("path", type=_PATH)
@click.option("--recipe", type=_PATH, help="Take the serve profile and the probes from this recipe.")
@click.option(
    "--launcher",
    type=click.Choice(("native", "docker", "podman", "cpu", "attach")),
    help="How to get a server. [the recipe's; else native where NPUs are, cpu elsewhere]",
)
@click.option("--hardware", type=click.Choice(("a2", "a3")), help="The kind of NPU server, for containers.")
@click.option("--url", help="Address of the server, for launcher attach.")
@click.option("--tp", type=click.IntRange(min=1), help="Tensor parallel size. [the recipe's; on a CPU 1]")
@click.option("--print-command", is_flag=True, help="Print the server's command and start nothing.")
@_settings_options
@_output_options
def smoke(
    path: Path,
    recipe: Path | None,
    print_command: bool,
    settings: Settings,
    console: Console,
    **choice: Any,
) -> None:
    """Load the checkpoint directory PATH in a real server and ask it."""
    from quantpipe.cli import render
    from quantpipe.smoke import standalone

    signal.signal(signal.SIGTERM, _on_sigterm)
    load = standalone.section(_load(recipe) if recipe else None, standalone.Choice(**choice), path)
    if print_command:
        command = standalone.command(path, load, settings)
        _emit(console, command.to_json(), [command.shell()])
        return
    _emit(console, *render.smoke(standalone.load(path, load, settings, console)))


@cli.command()
@click.argument("recipe", type=_PATH)
@_settings_options
@_output_options
def rollback(recipe: Path, settings: Settings, console: Console) -> None:
    """Let the pointer of RECIPE name the generation before."""
    from quantpipe.publish import retention
    from quantpipe.store.store import Store

    name = _load(recipe).name
    left, now = retention.rollback(Store(settings.store), name)
    value = {"recipe": name, "from": left, "to": now, "held": left}
    lines = [
        f"{name}: current -> {now[:12]} (was {left[:12]})",
        f"  {left[:12]} is held: a run does not publish it again, `--force publish` does",
    ]
    _emit(console, value, lines)


@cli.command()
@click.option("--yes", is_flag=True, help="Remove instead of only listing.")
@click.option("--keep", type=click.IntRange(min=2), default=2, show_default=True, help="Generations to keep.")
@_settings_options
@_output_options
def prune(yes: bool, keep: int, settings: Settings, console: Console) -> None:
    """List what retention would remove from the store; --yes removes it."""
    from quantpipe.cli import render
    from quantpipe.publish import prune
    from quantpipe.store.store import Store

    store = Store(settings.store)
    candidates = prune.candidates(store, keep=keep)
    if yes:
        prune.remove(store, candidates)
    _emit(console, *render.pruned(candidates, removed=yes))


@cli.command()
@_settings_options
@_output_options
def doctor(settings: Settings, console: Console) -> None:
    """This machine: interpreters, devices, memory, disk, and what the store's filesystem can do."""
    from quantpipe import doctor
    from quantpipe.cli import render

    findings = doctor.examine(settings)
    _emit(console, *render.doctor(findings))
    if not all(finding.ok for finding in findings):
        sys.exit(5)


@cli.group("recipe")
def recipe_group() -> None:
    """List, show and check recipes."""


@recipe_group.command("list")
@_output_options
def recipe_list(console: Console) -> None:
    """The recipes that come with quantpipe."""
    from quantpipe.cli import render
    from quantpipe.settings import PROJECT_ROOT

    _emit(console, *render.recipes(sorted((PROJECT_ROOT / "recipes").glob("*.yaml"))))


@recipe_group.command("show")
@click.argument("recipe", type=_PATH)
@_output_options
def recipe_show(recipe: Path, console: Console) -> None:
    """RECIPE with every default filled in."""
    from quantpipe.cli import render

    _emit(console, *render.recipe(_load(recipe)))


@recipe_group.command("check")
@click.argument("recipes", type=_PATH, nargs=-1, required=True)
@_output_options
def recipe_check(recipes: tuple[Path, ...], console: Console) -> None:
    """Check RECIPES and their datasets; all problems at once."""
    checked = [(path, _load(path)) for path in recipes]
    value = [{"path": str(path), "name": loaded.name, "digest": loaded.digest()} for path, loaded in checked]
    _emit(console, value, [f"{path}: fine, digest {loaded.digest()[:12]}" for path, loaded in checked])


def _on_sigterm(number: int, frame: object) -> NoReturn:
    """Stop in order: children are ended, finished work is kept."""
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise RetryableError("stopped by SIGTERM", hint="the same command continues from here")


def main() -> NoReturn:
    """The console script: every error rendered in one place, every exit code from the error itself."""
    try:
        cli.main(standalone_mode=False)
    except QuantpipeError as error:
        _fail(error)
    except (KeyboardInterrupt, click.Abort):
        _fail(InterruptedRunError("interrupted", hint="the same command continues from here"))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        _fail(_unexpected(error))
    sys.exit(0)


def _unexpected(error: Exception) -> QuantpipeError:
    """A fault that nobody foresaw, of quantpipe's or of the machine's; finished work is kept all the same."""
    import traceback

    return QuantpipeError(
        f"unexpected {type(error).__name__}: {error}",
        hint="run again; if it comes back, report it with these lines",
        details="".join(traceback.format_exception(error)).splitlines(),
    )


def _fail(error: QuantpipeError) -> NoReturn:
    from quantpipe.cli import render
    from quantpipe.redact import redact

    if "--json" in sys.argv:
        click.echo(redact(json.dumps({"status": "failed", **error.to_json()}, indent=2, ensure_ascii=False)))
    else:
        for line in render.error(error):
            click.echo(redact(line), err=True)
    sys.exit(error.exit_code)
