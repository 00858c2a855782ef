"""The serve profile of a recipe, in vLLM's own terms."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from quantpipe.recipe import guard
from quantpipe.recipe.section import Section
from quantpipe.redact import add_secret, is_secret, masked_arguments

_SHORTEST_SECRET = 8
"""Characters; what is shorter (`true`, `none`) is masked by its name only, and not wherever it occurs."""


def _any_scalar(schema: dict[str, Any]) -> None:
    schema["additionalProperties"] = {"type": ["string", "number", "boolean"]}


class Serve(Section):
    """The serve profile: how vLLM is started, in vLLM's own terms (its `serve` options).

    Attributes:
        served_model_name: the model name that clients use.
        tensor_parallel_size: devices that share the weights of each layer.
        data_parallel_size: replicas of the attention layers, each with its own requests.
        enable_expert_parallel: place whole experts on the devices instead of a slice of each.
        max_model_len: maximum number of tokens, prompt and answer together.
        max_num_seqs: maximum number of requests per step.
        max_num_batched_tokens: maximum number of tokens per step.
        gpu_memory_utilization: share of a device's memory that vLLM may use.
        dtype: of the weights and activations that are not quantized.
        seed: sampling seed.
        enforce_eager: disable compilation and graph capture.
        async_scheduling: prepare the next step during the current one.
        trust_remote_code: whether the model's own Python code may run in the server.
        hf_overrides: passed as JSON; YaRN goes here as `rope_parameters`.
        compilation_config: passed as JSON.
        additional_config: passed as JSON; vllm-ascend's own switches.
        extra_args: further options, passed unchanged; not those of docs/refused.md.
        environment: environment variables of the server; not those of docs/refused.md.
    """

    served_model_name: str = Field(default="qwen3", pattern=r"^[^-\s]")  # no option
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
    hf_overrides: dict[str, Any] = Field(default={})
    compilation_config: dict[str, Any] = Field(default={})
    additional_config: dict[str, Any] = Field(default={})
    extra_args: tuple[str, ...] = ()
    environment: dict[str, str] = Field(default={}, json_schema_extra=_any_scalar)

    @field_validator("environment", mode="before")
    @classmethod
    def _environment_is_text(cls, value: Any) -> Any:
        """YAML reads `OMP_PROC_BIND: false` as a boolean; the environment needs text."""
        if not isinstance(value, dict):
            return value
        return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in value.items()}

    @field_validator("environment")
    @classmethod
    def _variables_are_allowed(cls, value: dict[str, str]) -> dict[str, str]:
        guard.require_none(guard.refused_variables(tuple(value)))
        return value

    @field_validator("extra_args")
    @classmethod
    def _options_are_allowed(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        guard.require_none(guard.refused_options(value))
        return value

    @field_validator("hf_overrides", "compilation_config", "additional_config")
    @classmethod
    def _keys_are_allowed(cls, value: dict[str, Any]) -> dict[str, Any]:
        guard.require_none(guard.refused_keys(value))
        return value

    @model_validator(mode="after")
    def _secrets_are_known(self) -> Serve:
        """Whatever prints them: the log of a server, the message of an error."""
        found = [value for name, value in self.environment.items() if is_secret(name)]
        pairs = zip(self.extra_args, masked_arguments(self.extra_args), strict=True)
        found += [given.rpartition("=")[2] for given, shown in pairs if shown.endswith("***")]
        for value in found:
            if len(value) >= _SHORTEST_SECRET:
                add_secret(value)
        return self
