"""The content of a report, as `report.json` and `quantpipe report --json` have it. Pages are made of it.

Sections that are unknown (receipts of an early version, a measurement that was switched off, a removed run)
are None or empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from quantpipe.store.outputs import Record, SmokeFigures
from quantpipe.store.quality import Quality

FORMAT = 1

Weight = Literal["problem", "caution", "note"]


@dataclass(frozen=True)
class Remark(Record):
    """What to know before the checkpoint is served.

    Attributes:
        weight: `problem`: do not serve it; `caution`: look at it first; `note`: worth knowing.
        text: one sentence.
    """

    weight: Weight
    text: str


@dataclass(frozen=True)
class Origin(Record):
    """What the generation was made of, by what, and when.

    Attributes:
        hub: where the BF16 weights came from.
        repo: `owner/name`, or a directory.
        commit: of the source.
        architecture: of config.json; empty where that cannot be read.
        layers: decoder layers.
        recipe_digest: of the recipe: of what decides the weights.
        quantpipe: version.
        versions: of the packages in the quantize worker's interpreter.
        sealed: UTC time, ISO 8601.
        published: UTC time of the last publish; empty where it is not known.
        publisher: user and host of the last publish; empty where they are not known.
        store: root of the store when the report was made.
        path: of the generation, relative to the store.
    """

    hub: str
    repo: str
    commit: str
    architecture: str
    layers: int
    recipe_digest: str
    quantpipe: str
    versions: dict[str, str]
    sealed: str
    published: str
    publisher: str
    store: str
    path: str


@dataclass(frozen=True)
class KindSize(Record):
    """The modules of one kind, before and after quantizing.

    Attributes:
        kind: `embed`, `head`, `router`, `norm`, `attention`, `mlp`, `expert`, or `other`: tensors that belong
            to no known module.
        modules: with a weight.
        source_bytes: of their tensors in the snapshot; computed from shapes where the snapshot is gone.
        bytes: of their tensors in the checkpoint.
        types: how many modules have each quantization type.
    """

    kind: str
    modules: int
    source_bytes: int
    bytes: int
    types: dict[str, int]


@dataclass(frozen=True)
class Sizes(Record):
    """Bytes before and after quantizing.

    Attributes:
        source_bytes: of the snapshot's weights.
        bytes: of the checkpoint, all files.
        files: in the checkpoint.
        kinds: the tensors by kind of module; empty where the headers cannot be read.
        types: how many quantized modules have each type.
    """

    source_bytes: int
    bytes: int
    files: int
    kinds: tuple[KindSize, ...]
    types: dict[str, int]


@dataclass(frozen=True)
class Gate(Record):
    """A quality gate of the recipe. All are one-sided: no checkpoint is too good.

    Attributes:
        key: of the recipe's section `quality`.
        limit: what the recipe asks for.
        value: of the generation.
        passed: whether it is within the limit.
    """

    key: str
    limit: float
    value: float
    passed: bool


@dataclass(frozen=True)
class ExpertCoverage(Record):
    """How well calibration reached the experts of a layer.

    Attributes:
        layer: from 0.
        experts: in the layer.
        unreached: experts that no token of the calibration set reached.
        fewest: tokens of the expert that got the fewest.
        median: tokens of the median expert.
    """

    layer: int
    experts: int
    unreached: int
    fewest: int
    median: int


@dataclass(frozen=True)
class StageCost(Record):
    """What a stage took, and what was planned.

    Attributes:
        stage: its name.
        started: UTC time, ISO 8601.
        seconds: wall time.
        planned_seconds: of the plan; None where it has no estimate.
        memory_bytes: host memory at the peak, all processes of the stage; 0 where it was not measured.
        planned_memory_bytes: of the plan; 0 where it has no estimate.
        summary: one line.
    """

    stage: str
    started: str
    seconds: float
    planned_seconds: float | None
    memory_bytes: int
    planned_memory_bytes: int
    summary: str


@dataclass(frozen=True)
class RunRecord(Record):
    """The run that published the generation.

    Attributes:
        id: of the run.
        host: where it ran.
        started: UTC time, ISO 8601.
        continues: id of the unfinished run whose work it took over; None where there was none.
        warnings: what it warned of.
    """

    id: str
    host: str
    started: str
    continues: str | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Serving(Record):
    """The command that serves the generation.

    Attributes:
        shell: as a person types it.
        arguments: program and arguments.
        environment: variables beyond those of the caller; values of secrets are masked.
    """

    shell: str
    arguments: tuple[str, ...]
    environment: dict[str, str]


@dataclass(frozen=True)
class WayBack(Record):
    """How to return to the generation before.

    Attributes:
        command: of the shell; empty where there is nothing to return to.
        digest: of the generation that would be current; None where there is none.
    """

    command: str
    digest: str | None


Topic = Literal["source", "recipe", "version", "size", "quality", "answers"]


@dataclass(frozen=True)
class Change(Record):
    """One value that differs from the generation before.

    Attributes:
        topic: `source`, `recipe`, `version`, `size`, `quality` or `answers`.
        key: what differs; a key of the recipe, the name of a package or of a figure.
        before: the value of the generation before; null where it had none.
        after: the value now; null where there is none.
    """

    topic: Topic
    key: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Changes(Record):
    """What differs from the generation before.

    Attributes:
        digest: of that generation.
        known: whether that generation's receipts are still in the store: else nothing can be compared.
        items: every value that differs.
    """

    digest: str
    known: bool
    items: tuple[Change, ...]


@dataclass(frozen=True)
class GenerationReport(Record):
    """What is known about a published generation.

    Attributes:
        format: of this object.
        recipe: its name.
        digest: of the generation.
        state: `current`, `held`, `published earlier` or `damaged`.
        remarks: what to know before it is served, the gravest first.
        origin: what it was made of, by what, and when.
        sizes: before and after quantizing.
        quality: what it keeps of the BF16 model's; absent where that was not measured.
        gates: the quality gates of the recipe; empty where nothing was measured, or the recipe is not known.
        experts: how well calibration reached the experts, by layer; empty where that is not known.
        verify: the report of stage verify, as `verify --json` prints it.
        smoke: what the server did in the smoke load.
        stages: what each stage took, in their order.
        run: the run that published it; absent where its folder was removed before a report was made.
        serve: the command that serves it; absent where the recipe is not known.
        back: how to return to the generation before.
        changes: what differs from the generation before; absent for the first one.
        settings: the recipe: every key that decides a stage's result; empty where it is not known.
    """

    format: int
    recipe: str
    digest: str
    state: str
    remarks: tuple[Remark, ...]
    origin: Origin
    sizes: Sizes
    verify: dict[str, Any]
    smoke: SmokeFigures
    stages: tuple[StageCost, ...]
    back: WayBack
    settings: dict[str, Any]
    gates: tuple[Gate, ...] = ()
    experts: tuple[ExpertCoverage, ...] = ()
    quality: Quality | None = None
    run: RunRecord | None = None
    serve: Serving | None = None
    changes: Changes | None = None


@dataclass(frozen=True)
class Trend(Record):
    """The figures of one generation, for a comparison with others.

    Attributes:
        digest: of the generation.
        state: `current`, `held`, `published earlier` or `damaged`.
        published: UTC time, ISO 8601.
        commit: of the source.
        bytes: of the checkpoint.
        seconds: of all stages together.
        probes: how many have a known answer.
        matched: how many of those were answered as known.
        quality: what it keeps of the BF16 model's: `kl_mean`, `kl_p99`, `top1`, `perplexity_ratio`; absent
            where that was not measured.
        report: the page of this generation, relative to the store; absent where there is none.
    """

    digest: str
    state: str
    published: str
    commit: str
    bytes: int
    seconds: float
    probes: int
    matched: int
    quality: dict[str, float] | None = None
    report: str | None = None


@dataclass(frozen=True)
class RecipeTrends(Record):
    """The generations of one recipe.

    Attributes:
        name: of the recipe.
        current: digest of the generation that the pointer names; absent where nothing is published.
        generations: those that were ever current, the present one last.
        problem: why nothing can be said about it; absent where that is not so.
    """

    name: str
    current: str | None = None
    generations: tuple[Trend, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class StoreReport(Record):
    """All recipes of a store with their generations.

    Attributes:
        format: of this object.
        store: its root.
        recipes: by name.
    """

    format: int
    store: str
    recipes: tuple[RecipeTrends, ...]
