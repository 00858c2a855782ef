"""The JSON objects that commands print with `--json`, and events, where no other class has their fields.

docs/json.md is generated from these docstrings and from those of the classes that have a `to_json`
(json_docs.py). A key keeps its name and its meaning; later versions may add keys.
"""

from __future__ import annotations

from typing import Any, TypedDict


class ServeJson(TypedDict):
    """A command that starts a server.

    Attributes:
        arguments: program and arguments; `***` in the place of secrets.
        environment: variables beyond those of the caller; `***` in the place of secrets.
    """

    arguments: list[str]
    environment: dict[str, str]


class _RunAlways(TypedDict):
    status: str
    recipe: str
    run: str | None
    stages: list[dict[str, Any]]


class RunJson(_RunAlways, total=False):
    """How a run ended well.

    Attributes:
        status: `published`, `up to date`, `stopped` (after the `--until` stage), or `held`: the result is
            there, but was rolled back.
        recipe: its name.
        run: the run's id; null where nothing had to run.
        stages: the receipts of all stages that are done, in their order.
        digest: of the generation that is published or held; absent where the run ended before that.
        path: of the generation; this key and those below it are absent where nothing is published.
        pointer: path of the link that names the generation.
        bytes: of the checkpoint.
        source_bytes: of the snapshot's weights.
        serve: the command that serves the generation.
    """

    digest: str
    path: str
    pointer: str
    bytes: int
    source_bytes: int
    serve: ServeJson


class StagePlanJson(TypedDict):
    """What a stage would do and cost.

    Attributes:
        stage: its name.
        action: `run`, or `reuse` where a receipt stands for the work.
        summary: one line for people.
        disk_bytes: bytes that it would add to the store.
        memory_bytes: host memory that it needs at its peak.
        notes: what the user has to know first, one sentence each.
    """

    stage: str
    action: str
    summary: str
    disk_bytes: int
    memory_bytes: int
    notes: list[str]


class PlanJson(TypedDict):
    """What a run would do. The exit code is that of the first obstacle.

    Attributes:
        stages: a plan per stage, in their order.
        disk_bytes: bytes that the run would add to the store.
        memory_bytes: host memory at the peak of the run.
        obstacles: the errors that a run would end with on this host; empty where it can begin.
    """

    stages: list[StagePlanJson]
    disk_bytes: int
    memory_bytes: int
    obstacles: list[dict[str, object]]


_From = TypedDict("_From", {"from": str})


class RollbackJson(_From):
    """What a rollback did.

    Attributes:
        from: digest of the generation that was current.
        recipe: its name.
        to: digest of the generation that is current now.
        held: digest of the generation that runs do not publish again; the same as `from`.
        damaged: generations that were passed over, by digest, and how they differ from their manifests.
    """

    recipe: str
    to: str
    held: str
    damaged: dict[str, list[dict[str, str]]]


class PruneJson(TypedDict):
    """What retention removes.

    Attributes:
        removed: whether it was removed (`--yes`), or only would be.
        bytes: the sum over all candidates.
        candidates: what goes.
    """

    removed: bool
    bytes: int
    candidates: list[dict[str, Any]]


class ShippedRecipeJson(TypedDict):
    """A recipe that ships with quantpipe.

    Attributes:
        name: the name that commands take.
        path: of its file.
        about: one sentence.
    """

    name: str
    path: str
    about: str


class CheckedRecipeJson(TypedDict):
    """A recipe without problems.

    Attributes:
        path: as given.
        name: of the recipe.
        digest: of its content, defaults and datasets included.
    """

    path: str
    name: str
    digest: str


class CopiedRecipeJson(TypedDict):
    """A copy of a shipped recipe.

    Attributes:
        path: of the copy.
        name: of the recipe in it.
        copied: name of the shipped recipe.
    """

    path: str
    name: str
    copied: str


class ErrorJson(TypedDict):
    """A failure.

    Attributes:
        error: the class of `quantpipe/errors.py`.
        exit_code: of the command; see [exit-codes.md](exit-codes.md).
        what: what happened, in one line.
        where: file, key, line or tensor; null where `what` says it.
        hint: what to do next; null where nothing is known.
        details: further lines: all problems of a recipe, the last lines of a log.
    """

    error: str
    exit_code: int
    what: str
    where: str | None
    hint: str | None
    details: list[str]


class FailureJson(ErrorJson):
    """What any command prints in place of its data where it fails.

    Attributes:
        status: always `failed`.
    """

    status: str


# -- events -------------------------------------------------------------------------------------------


class _LineAlways(TypedDict):
    text: str


class LineEvent(_LineAlways, total=False):
    """A line for people.

    Attributes:
        text: the line.
        stage: the stage that it ends; only in the last line of a stage.
        seconds: wall time of that stage.
        files: how many are fetched; only in the line that says so.
        bytes: the size of these.
    """

    stage: str
    seconds: float
    files: int
    bytes: int


class _StageAlways(TypedDict):
    stage: str
    status: str


class StageEvent(_StageAlways, total=False):
    """A stage began or ended.

    Attributes:
        stage: its name.
        status: `started` or `finished`.
        figures: of the finished stage, as its receipt has them.
    """

    figures: dict[str, Any]


class _WorkerMessageAlways(TypedDict):
    event: str


class WorkerMessage(_WorkerMessageAlways, total=False):
    """A message of the quantize worker.

    Attributes:
        event: `started`, `phase`, `layer`, `step`, `resumed`, `discarded`, `damaged`, `unmeasured`,
            `stopped`, `failed` or `finished`.
        versions: `started`: of the packages in its interpreter.
        threads: `started`: of torch.
        name: `phase`: what it is about to do. `step`: `rotate`, `smooth`, `quantize`, `calibrate`, `measure`
            or `write`.
        index: `layer`: decoder layers begun so far.
        of: `layer`: how many there are. `step`: how many linears (`quantize`) or prompts (`calibrate`);
            0 where nothing is counted.
        eta: `layer`: seconds until all layers are done, once one of this run is.
        done: `step`: linears or prompts so far.
        units: `resumed`, `discarded`, `unmeasured`: finished parts of an earlier run's work.
        differences: `discarded`: why, one line each.
        message: `stopped`, `failed`: what happened.
        type: `failed`: the class of msmodelslim's error.
        action: `failed`: what msmodelslim advises.
        fault: `failed`: `storage`, `memory`, `environment`, `device`, `source` or `error`.
        errno: `failed` with fault `storage`: the name of the error.
        file: `failed` with fault `storage`: where; empty where it is not known.
        seconds: `finished`: its wall time.
    """

    versions: dict[str, str]
    threads: int
    name: str
    index: int
    of: int
    eta: float
    done: int
    units: int
    differences: list[str]
    message: str
    type: str
    action: str
    fault: str
    errno: str
    file: str
    seconds: float


class WorkerEvent(TypedDict):
    """What the quantize worker reports.

    Attributes:
        worker: its message.
    """

    worker: WorkerMessage


class ServerEvent(TypedDict, total=False):
    """The server of the smoke load.

    Attributes:
        command: program and arguments with which it is started.
        environment: variables beyond those of the caller, without the values of secrets.
        url: in place of both, the address of a server that runs already (launcher `attach`).
    """

    command: list[str]
    environment: dict[str, str]
    url: str


class _FailedAlways(TypedDict):
    error: str
    what: str


class FailedEvent(_FailedAlways, total=False):
    """The run failed: the [error](#error); of an unexpected one only its class and its text.

    Attributes:
        error: the class of the error.
        what: what happened.
        exit_code: of the command.
        where: file, key, line or tensor.
        hint: what to do next.
        details: further lines.
    """

    exit_code: int
    where: str | None
    hint: str | None
    details: list[str]
