"""Recipes: what to build. Frozen pydantic models of the YAML, and the digest of what decides the output.

How to run (store, interpreters, jobs, output mode) is not in here: that is settings.py.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from quantpipe.digest import digest_of
from quantpipe.recipe.datasets import dataset_digest, load_prompts

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,99}$"


class Section(BaseModel):
    """A part of a recipe: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


def _expand(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value


RecipePath = Annotated[Path, BeforeValidator(_expand)]
"""A path; a relative one is relative to the recipe's folder, so that recipes work from anywhere."""


def default_hub() -> str:
    """The hub of recipes that name none: as vLLM's own users choose it, by VLLM_USE_MODELSCOPE."""
    wish = os.environ.get("VLLM_USE_MODELSCOPE", "").strip().lower()
    return "modelscope" if wish in ("1", "true", "yes", "on") else "huggingface"


class Source(Section):
    """Where the BF16 weights come from.

    Attributes:
        hub: which client fetches them; `default_hub` where the recipe does not say.
        repo: `owner/name` on a hub; a directory for `local`.
        revision: branch, tag or commit; None is the hub's default. Resolved to a commit first of all.
        include: shell patterns of the files wanted; empty means all that serving and quantizing need.
        exclude: shell patterns of files never wanted.
    """

    hub: Literal["modelscope", "huggingface", "local"] = Field(
        default_factory=default_hub, validate_default=True
    )
    repo: str = Field(min_length=1)
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _repo_fits_hub(self) -> Source:
        if self.hub != "local" and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise ValueError(f"repo {self.repo!r} is not of the form owner/name")
        if self.hub == "local" and self.revision is not None:
            raise ValueError("a local source has no revision: remove the key")
        return self


class AntiOutlier(Section):
    """Smoothing: moves outliers of activations into the weights before quantizing.

    Attributes:
        method: `flex_smooth_quant` is msmodelslim's m6, `iter_smooth` its m4.
        dataset: prompts whose activations decide the smoothing scales.
    """

    method: Literal["flex_smooth_quant", "iter_smooth", "none"] = "flex_smooth_quant"
    dataset: RecipePath


class Calibration(Section):
    """The static activation scales come from these prompts.

    Attributes:
        dataset: JSON or JSONL of prompts (calib_data/README.md).
        limit: only the first so many prompts; None takes all.
    """

    dataset: RecipePath
    limit: int | None = Field(default=None, ge=1)


class Quantize(Section):
    """What msmodelslim does to the weights.

    Attributes:
        engine: `streaming` works layer by layer from disk and continues what was interrupted; `stock` is
            msmodelslim's own V1 service, which holds the whole model in memory.
        exact: the bits of engine `stock`. False lets engine `streaming` take quicker arithmetic, for
            hosts without an NPU (docs/streaming.md says how much may differ).
        scheme: `w8a8_dynamic`: attention W8A8 static, experts and MLP W8A8_DYNAMIC, the rest FLOAT.
        rotate: turn the residual stream by a random Hadamard matrix first (QuaRot).
        device: `cpu`, `npu`, or a list of devices such as `npu:0,1`.
        threads: CPU threads; a fixed number makes the result independent of the host's number of cores,
            since sums are split by it. None takes all cores.
        part_size: largest size of one shard, GiB.
        trust_remote_code: whether the model's own Python code may run.
    """

    engine: Literal["streaming", "stock"] = "streaming"
    exact: bool = True
    scheme: Literal["w8a8_dynamic"] = "w8a8_dynamic"
    rotate: bool = True
    anti_outlier: AntiOutlier | None = None
    calibration: Calibration
    device: str = Field(default="npu", pattern=r"^(cpu|npu(:\d+(,\d+)*)?)$")
    threads: int | None = Field(default=None, ge=1)
    part_size: int = Field(default=4, ge=1, le=64)
    trust_remote_code: bool = False

    @model_validator(mode="after")
    def _engine_can(self) -> Quantize:
        if self.engine == "stock" and not self.exact:
            raise ValueError("engine `stock` is always exact: set engine to `streaming`, or remove `exact`")
        if self.engine == "streaming" and "," in self.device:
            raise ValueError("engine `streaming` works on one device: name one, or set engine to `stock`")
        return self


class Verify(Section):
    """The static checks.

    Attributes:
        target: the vllm-ascend version that has to load the checkpoint.
        deep: also look at the values of the tensors, not only at names, types and shapes.
    """

    target: str = Field(default="0.23.0", pattern=r"^\d+\.\d+\.\d+\w*$")
    deep: bool = True


class Serve(Section):
    """The serve profile: how vLLM is started, in vLLM's own terms (its `serve` options).

    Attributes:
        served_model_name: the name under which clients ask for the model.
        max_model_len: tokens of prompt and answer together.
        gpu_memory_utilization: share of a device's memory that vLLM may take.
        hf_overrides: passed as JSON; YaRN goes here as `rope_parameters`.
        compilation_config: passed as JSON.
        additional_config: passed as JSON; vllm-ascend's own switches.
        extra_args: further options, as they are.
        environment: environment variables of the server.
    """

    served_model_name: str = "qwen3"
    tensor_parallel_size: int = Field(default=1, ge=1)
    data_parallel_size: int = Field(default=1, ge=1)
    enable_expert_parallel: bool = False
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    max_num_batched_tokens: int | None = Field(default=None, ge=1)
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    dtype: Literal["auto", "bfloat16", "float16"] | None = None
    seed: int | None = None
    enforce_eager: bool = False
    async_scheduling: bool = False
    trust_remote_code: bool = False
    hf_overrides: dict[str, Any] = {}
    compilation_config: dict[str, Any] = {}
    additional_config: dict[str, Any] = {}
    extra_args: tuple[str, ...] = ()
    environment: dict[str, str] = {}

    @field_validator("environment", mode="before")
    @classmethod
    def _environment_is_text(cls, value: Any) -> Any:
        """YAML reads `OMP_PROC_BIND: false` as a boolean; the environment wants its text."""
        if not isinstance(value, dict):
            return value
        return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in value.items()}


class Probe(Section):
    """A question to the loaded model.

    Attributes:
        prompt: the text; for `chat` the user's message.
        continuation: what a greedy answer has to begin with; None where only an answer is wanted.
        max_tokens: how many tokens to ask for.
        chat: ask /v1/chat/completions instead of /v1/completions.
        must_stop: the answer has to end by itself, before `max_tokens`.
        any_script: the answer may be in a script that the prompt does not use (a translation).
    """

    prompt: str = Field(min_length=1)
    continuation: str | None = Field(default=None, pattern=r"\S")  # an empty one would match anything
    max_tokens: int = Field(default=16, ge=1, le=4096)
    chat: bool = False
    must_stop: bool = False
    any_script: bool = False


class Timeouts(Section):
    """Seconds that the smoke stage waits.

    Attributes:
        stall: without any sign of life (log, CPU, disk) before the server counts as hung.
        ready: alive, but no further on its way to /health: no new line, no new shard, nothing read.
            Time in which it does come further does not count, however long a cold load takes.
        probe: for one answer.
    """

    stall: float = Field(default=600, gt=0)
    ready: float = Field(default=3600, gt=0)
    probe: float = Field(default=120, gt=0)


class Container(Section):
    """How launchers `docker` and `podman` start the image.

    Attributes:
        image: None takes the tutorial's image for the hardware.
        devices: numbers of the devices to map; empty maps all that the hardware has.
        shm_size: of /dev/shm, as the container engine writes sizes.
        mounts: further `source:target[:options]`, as the container engine takes them.
    """

    image: str | None = Field(default=None, min_length=1)
    devices: tuple[Annotated[int, Field(ge=0)], ...] = ()
    shm_size: str = Field(default="1g", pattern=r"^\d+[bkmg]?$")
    mounts: tuple[str, ...] = ()


class Bench(Section):
    """A speed figure from `vllm bench serve` on random prompts, and the gate on it.

    Attributes:
        num_prompts: requests in all.
        input_len: tokens of each prompt.
        output_len: tokens of each answer.
        concurrency: requests at a time; None sends all at once.
        baseline: output tokens per second that this profile is known for; None gates nothing.
        factor: share of the baseline that has to be reached.
        timeout: seconds for the whole measurement.
    """

    num_prompts: int = Field(default=16, ge=1)
    input_len: int = Field(default=128, ge=1)
    output_len: int = Field(default=64, ge=1)
    concurrency: int | None = Field(default=None, ge=1)
    baseline: float | None = Field(default=None, gt=0)
    factor: float = Field(default=0.97, gt=0, le=1)
    timeout: float = Field(default=1800, gt=0)


class Smoke(Section):
    """The smoke load: a real server on the real checkpoint, asked real questions.

    Attributes:
        launcher: `native` is vllm-ascend on NPUs, `docker` and `podman` are the same in its image, `cpu`
            is the rehearsal with quantpipe's vLLM plugin, `attach` asks a server that runs already.
        hardware: the kind of NPU server: `a2` is Atlas 800I A2, `a3` Atlas 800I A3; None where it does
            not matter.
        device_memory: of one device, GiB.
        container: for `docker` and `podman`.
        url: for `attach`, the server's address.
        probes: questions to the model; after loading, those of `probes_file` are among them.
        probes_file: further questions, a JSON list of the same objects.
        min_matches: share of the probes with a known continuation that has to match.
        concurrency: requests of the batch that has to be answered at the same time.
        max_logprob_drift: largest mean difference to the reference answers' log-probabilities, where the
            run has reference answers.
        bench: `true`, or its section, measures the throughput.
    """

    launcher: Literal["native", "docker", "podman", "cpu", "attach"] = "native"
    hardware: Literal["a2", "a3"] | None = None
    device_memory: float = Field(default=64, gt=0)
    container: Container = Container()
    url: str | None = Field(default=None, pattern=r"^https?://[^\s/@]+/?$")
    serve: Serve = Serve()
    probes: tuple[Probe, ...] = (Probe(prompt="The future of AI is", max_tokens=50),)
    probes_file: RecipePath | None = None
    min_matches: float = Field(default=1.0, ge=0, le=1)
    concurrency: int = Field(default=4, ge=1, le=256)
    max_logprob_drift: float = Field(default=0.5, gt=0)
    timeouts: Timeouts = Timeouts()
    bench: Bench | None = None

    @field_validator("bench", mode="before")
    @classmethod
    def _bench_is_a_switch_too(cls, value: Any) -> Any:
        return {True: Bench(), False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _launcher_has_what_it_needs(self) -> Smoke:
        if self.launcher == "attach" and self.url is None:
            raise ValueError("launcher attach needs `url`, the address of the server")
        if self.launcher in ("docker", "podman") and self.hardware is None:
            raise ValueError(f"launcher {self.launcher} needs `hardware`: a2 or a3 decides image and devices")
        return self


class Publish(Section):
    """What stays in the store.

    Attributes:
        keep: generations of the checkpoint, the current one included; at least two, for a rollback.
    """

    keep: int = Field(default=2, ge=2)


class Recipe(Section):
    """One recipe file. Made by `quantpipe.recipe.load.load`, which resolves its paths."""

    name: str = Field(pattern=NAME_PATTERN)
    source: Source
    quantize: Quantize
    verify: Verify = Verify()
    smoke: Smoke = Smoke()
    publish: Publish = Publish()

    def stage_inputs(self) -> dict[str, Any]:
        """What of the recipe decides each stage's result, as JSON values, by stage.

        Datasets and probe files count with their content and not with their paths; so does a local
        source, whose content enters through its manifest. Time limits and the number of generations
        decide nothing.

        Raises:
            RecipeError: a dataset is missing or wrong.
        """
        return {
            "fetch": self._source_input(),
            "quantize": self._quantize_input(),
            "verify": self.verify.model_dump(mode="json"),
            "smoke": self._smoke_input(),
            "publish": {},
        }

    def digest(self) -> str:
        """SHA-256, in hex, over what decides the output.

        Raises:
            RecipeError: a dataset is missing or wrong.
        """
        inputs = self.stage_inputs()
        return digest_of({"fetch": inputs["fetch"], "quantize": inputs["quantize"]})

    def _source_input(self) -> dict[str, Any]:
        value = self.source.model_dump(mode="json")
        if self.source.hub == "local":
            del value["repo"]
        return value

    def _quantize_input(self) -> dict[str, Any]:
        value = self.quantize.model_dump(mode="json")
        prompts = self.calibration_prompts()
        value["calibration"] = {"prompts": dataset_digest(prompts)}
        if self.quantize.anti_outlier is not None:
            value["anti_outlier"]["dataset"] = dataset_digest(self.anti_outlier_prompts())
        return value

    def _smoke_input(self) -> dict[str, Any]:
        return self.smoke.model_dump(mode="json", exclude={"timeouts", "probes_file"})

    def calibration_prompts(self) -> tuple[str, ...]:
        """The prompts that decide the activation scales.

        Raises:
            RecipeError: the dataset is missing or wrong.
        """
        section = self.quantize.calibration
        return load_prompts(section.dataset)[: section.limit]

    def anti_outlier_prompts(self) -> tuple[str, ...]:
        """The prompts that decide the smoothing; empty without an anti_outlier section.

        Raises:
            RecipeError: the dataset is missing or wrong.
        """
        section = self.quantize.anti_outlier
        return () if section is None else load_prompts(section.dataset)
