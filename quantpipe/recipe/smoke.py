"""The smoke section of a recipe: the server to start, the prompts to send, the timeouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, field_validator, model_validator

from quantpipe.recipe import guard
from quantpipe.recipe.probes import Probe, ProbesFile
from quantpipe.recipe.section import Section
from quantpipe.recipe.serve import Serve

if TYPE_CHECKING:
    from typing_extensions import Self


class Timeouts(Section):
    """Seconds that the smoke stage waits.

    Attributes:
        stall: without any activity (log, CPU, disk) before the server counts as hung.
        ready: alive, but without progress towards /health: no new log line, no new shard, nothing read.
            Time with progress does not count, however long a cold load takes.
        probe: for one answer.
    """

    stall: float = Field(default=600, gt=0)
    ready: float = Field(default=3600, gt=0)
    probe: float = Field(default=120, gt=0)


class Container(Section):
    """How launchers `docker` and `podman` start the image.

    Attributes:
        image: None takes the tutorial's image for the hardware.
        devices: numbers of the devices to map; empty maps all devices of the hardware.
        shm_size: size of /dev/shm, in the container engine's notation.
        mounts: further `source:target[:options]`; source is an absolute path or the name of a volume, options
            are ro, rw, z, Z; not those of docs/refused.md.
    """

    image: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")
    devices: tuple[Annotated[int, Field(ge=0)], ...] = ()
    shm_size: str = Field(default="1g", pattern=r"^\d+[bkmg]?$")
    mounts: tuple[str, ...] = ()

    @field_validator("mounts")
    @classmethod
    def _mounts_are_allowed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        guard.require_none(guard.refused_mounts(value))
        return value


class Bench(Section):
    """A speed figure from `vllm bench serve` on random prompts, and the gate on it.

    Attributes:
        num_prompts: number of requests.
        input_len: tokens of each prompt.
        output_len: tokens of each answer.
        concurrency: requests in flight; None sends all at once.
        baseline: expected output tokens per second of this profile; None disables the gate.
        factor: required share of the baseline.
        timeout: seconds for the whole measurement.
    """

    num_prompts: int = Field(default=16, ge=1)
    input_len: int = Field(default=128, ge=1)
    output_len: int = Field(default=64, ge=1)
    concurrency: int | None = Field(default=None, ge=1)
    baseline: float | None = Field(default=None, gt=0)
    factor: float = Field(default=0.97, gt=0, le=1)
    timeout: float = Field(default=1800, gt=0)


def _or_a_switch(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"type": "boolean"})


class Smoke(Section):
    """The smoke load: a real server on the real checkpoint, with probes.

    Attributes:
        launcher: `native` is vllm-ascend on NPUs, `docker` and `podman` are the same in its image, `cpu`
            is the rehearsal with quantpipe's vLLM plugin, `attach` uses a running server.
        hardware: the kind of NPU server: `a2` is Atlas 800I A2, `a3` Atlas 800I A3; None where it does
            not matter.
        device_memory: memory of one device, in GiB.
        container: for `docker` and `podman`.
        url: for `attach`, the server's address.
        unverified: for `attach`: accept a server that does not report which directory it serves (a gateway,
            say). Nothing then shows that the answers come from this checkpoint.
        serve: the options of the vLLM server.
        probes: prompts for the model; those of `probes_file` are read at load and appended.
        probes_file: further probes: a file with a JSON list of the same objects, or `builtin:` and the
            name of a shipped model. None in a loaded recipe.
        min_matches: required share of matches among the probes with a known continuation.
        concurrency: number of requests in the concurrent batch.
        max_logprob_drift: largest mean difference to the reference answers' log-probabilities, where the
            run has reference answers.
        timeouts: in seconds.
        bench: `true` or a section measures the throughput.
    """

    launcher: Literal["native", "docker", "podman", "cpu", "attach"] = "native"
    hardware: Literal["a2", "a3"] | None = None
    device_memory: float = Field(default=64, gt=0)
    container: Container = Container()
    url: str | None = Field(default=None, pattern=r"^https?://[^\s/@]+/?$")
    unverified: bool = False
    serve: Serve = Serve()
    probes: tuple[Probe, ...] = (Probe(prompt="The future of AI is", max_tokens=50),)
    probes_file: ProbesFile | None = None
    min_matches: float = Field(default=1.0, ge=0, le=1)
    concurrency: int = Field(default=4, ge=1, le=256)
    max_logprob_drift: float = Field(default=0.5, gt=0)
    timeouts: Timeouts = Timeouts()
    bench: Bench | None = Field(default=None, json_schema_extra=_or_a_switch)

    @field_validator("bench", mode="before")
    @classmethod
    def _bench_is_a_switch_too(cls, value: Any) -> Any:
        return {True: Bench(), False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="wrap")
    @classmethod
    def _probes_of_both(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        smoke = handler(value)
        if smoke.probes_file is None:
            return smoke
        return smoke.model_copy(update={"probes": (*smoke.probes, *smoke.probes_file), "probes_file": None})

    @model_validator(mode="after")
    def _launcher_has_what_it_needs(self) -> Smoke:
        if self.launcher == "attach" and self.url is None:
            raise ValueError("launcher attach needs `url`, the address of the server")
        if self.launcher != "attach" and self.unverified:
            raise ValueError("`unverified` is for launcher attach only")
        if self.launcher in ("docker", "podman") and self.hardware is None:
            raise ValueError(
                f"launcher {self.launcher} needs `hardware`: a2 or a3 determines image and devices"
            )
        return self
