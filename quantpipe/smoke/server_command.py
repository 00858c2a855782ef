"""From a serve profile to vLLM's command line and environment."""

from __future__ import annotations

import json
import os
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.host.environment import for_child
from quantpipe.recipe.serve import Serve
from quantpipe.recipe.smoke import Smoke
from quantpipe.redact import add_secret, masked, masked_arguments

API_KEY = "VLLM_API_KEY"
"""The variable by which vLLM's server requires a key: with each request below /v1."""

_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # The line that reports the quantization in effect is logged at INFO.
    "VLLM_CONFIGURE_LOGGING": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
}
"""A smoke load uses no hub and reports no usage."""

_REHEARSAL = {
    # Unset, each worker takes most of the host's memory for its KV cache.
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # The rehearsal's expert loop depends on data and is not compiled; without this, 16 s of tries.
    "TORCHDYNAMO_DISABLE": "1",
}

_REHEARSAL_ALONE = {
    # With one rank the engine runs in the server's own process: ready in half the time. It needs both
    # this and the option below.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
_ALONE_OPTION = ("--distributed-executor-backend", "uni")

_REHEARSAL_RANKS = {
    # Ranks bound to cores fail on hosts with fewer cores or NUMA nodes than ranks.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class ServerCommand:
    """What starts a server.

    Attributes:
        arguments: program and arguments.
        environment: variables beyond those of the caller.
        contained: it is the client of a container engine; the server's files are in the container.
        passed: variables of the caller that it gets beyond those of `for_child`.
    """

    arguments: tuple[str, ...]
    environment: dict[str, str]
    contained: bool = False
    passed: tuple[str, ...] = ()

    def full_environment(self, run_id: str, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """What its process gets: what it needs of the caller's environment, its own, and the run's id."""
        inherited = for_child(self.passed, base, container=self.contained)
        return {**inherited, **self.environment, "QUANTPIPE_RUN_ID": run_id}

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, for scripts: with `***` in the place of secrets."""
        return {"arguments": masked_arguments(self.arguments), "environment": masked(self.environment)}

    def describe(self) -> dict[str, Any]:
        """For events: without secrets as well."""
        return {"command": masked_arguments(self.arguments), "environment": masked(self.environment)}

    def shell(self) -> str:
        """The command as a person would type it, an option a line; a shell runs it as it is.

        Secrets are not in it: the shell takes them from its own environment, and says so where it has none.
        """
        shown = masked(self.environment)
        exports = [
            f"export {name}=" + (shlex.quote(value) if value == shown[name] else f'"${{{name}:?}}"')
            for name, value in self.environment.items()
        ]
        lines: list[str] = []
        for argument in map(shlex.quote, masked_arguments(self.arguments)):
            is_value = lines and not argument.startswith("--") and lines[-1].startswith("--")
            if is_value:
                lines[-1] += f" {argument}"
            elif argument.startswith("--") or not lines:
                lines.append(argument)
            else:
                lines[-1] += f" {argument}"
        return "\n".join([*exports, " \\\n    ".join(lines)])


def profile_arguments(serve: Serve) -> list[str]:
    """The options of `vllm serve` for a profile, without address and model.

    Source: `vllm serve --help`; names are vLLM's own.
    """
    arguments = ["--quantization", "ascend", "--served-model-name", serve.served_model_name]
    values: list[tuple[str, object | None]] = [
        ("--tensor-parallel-size", serve.tensor_parallel_size),
        ("--data-parallel-size", serve.data_parallel_size),
        ("--seed", serve.seed),
        ("--dtype", serve.dtype),
        ("--max-num-seqs", serve.max_num_seqs),
        ("--max-model-len", serve.max_model_len),
        ("--max-num-batched-tokens", serve.max_num_batched_tokens),
        ("--gpu-memory-utilization", serve.gpu_memory_utilization),
        ("--hf-overrides", _json(serve.hf_overrides)),
        ("--compilation-config", _json(serve.compilation_config)),
        ("--additional-config", _json(serve.additional_config)),
    ]
    for option, value in values:
        if value is not None:
            arguments += [option, str(value)]
    switches = [
        ("--enable-expert-parallel", serve.enable_expert_parallel),
        ("--trust-remote-code", serve.trust_remote_code),
        ("--async-scheduling", serve.async_scheduling),
        ("--enforce-eager", serve.enforce_eager),
    ]
    arguments += [option for option, wanted in switches if wanted]
    return [*arguments, *serve.extra_args]


def _json(value: dict[str, object]) -> str | None:
    return json.dumps(value) if value else None


def serve_command(
    checkpoint: Path | str, serve: Serve, *, launcher: str = "native", program: str = "vllm"
) -> ServerCommand:
    """What a user types to serve a checkpoint with this profile.

    Args:
        launcher: "cpu" adds what the rehearsal needs.
        program: the `vllm` to call.
    """
    arguments = (program, "serve", str(checkpoint), *profile_arguments(serve))
    rehearsal = _REHEARSAL if launcher == "cpu" else {}
    return ServerCommand(arguments, {**rehearsal, **serve.environment})


def smoke_command(
    launcher: str, python: Path, checkpoint: Path, serve: Serve, port: int, *, program: str | None = None
) -> ServerCommand:
    """What the smoke stage starts: the same profile, on the loopback address only.

    Args:
        launcher: "cpu" adds what the rehearsal needs; the others add nothing.
        python: interpreter of the serving environment.
        program: a `vllm` to call instead.
    """
    environment = dict(_OFFLINE)
    # As a module and not as the script `vllm`: nothing then depends on PATH or on a script's first line.
    start = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)]
    if program is not None:
        start = [program, "serve", str(checkpoint)]
    arguments = [*start, "--host", "127.0.0.1", "--port", str(port), *profile_arguments(serve)]
    if launcher == "cpu":
        environment |= _REHEARSAL
        if _ranks(serve) > 1:
            environment |= _REHEARSAL_RANKS
        else:
            environment |= _REHEARSAL_ALONE
            arguments += _ALONE_OPTION if _ALONE_OPTION[0] not in arguments else ()
        arguments += [option for option in ("--enforce-eager",) if option not in arguments]
    return ServerCommand(tuple(arguments), {**environment, **serve.environment})


def with_key(smoke: Smoke) -> Smoke:
    """The section with a key of this one load, so that nobody else on the host can use its server.

    A key that the recipe gives stays. The caller's VLLM_API_KEY is for the caller's own servers only.
    """
    environment = {API_KEY: secrets.token_urlsafe(32), **smoke.serve.environment}
    add_secret(environment[API_KEY])
    return smoke.model_copy(update={"serve": smoke.serve.model_copy(update={"environment": environment})})


def _ranks(serve: Serve) -> int:
    return serve.tensor_parallel_size * serve.data_parallel_size


_NPU_ONLY = ("ASCEND_", "HCCL_", "PYTORCH_NPU_", "TASK_QUEUE_", "OMP_", "VLLM_ASCEND_")
_REHEARSAL_LENGTH = 512
_REHEARSAL_SEQUENCES = 8


def reduced(serve: Serve, native_length: int = 0, tp: int = 1) -> Serve:
    """A profile made for NPUs, cut down to what a rehearsal on a CPU can do with a small model.

    What stays is what does not depend on devices: names, seed, trust. Lengths are capped, also by the
    model's own.

    Args:
        native_length: tokens that the model was made for; 0 where it is not known.
        tp: tensor parallel size; expert parallel stays only with several ranks.
    """
    caps = [length for length in (serve.max_model_len, native_length) if length]
    kept = {k: v for k, v in serve.environment.items() if not k.startswith(_NPU_ONLY)}
    kept.pop("VLLM_USE_MODELSCOPE", None)  # needs a package that a rehearsal does not
    return Serve(
        served_model_name=serve.served_model_name,
        tensor_parallel_size=tp,
        enable_expert_parallel=serve.enable_expert_parallel and tp > 1,
        max_model_len=min([_REHEARSAL_LENGTH, *caps]),
        max_num_seqs=min(_REHEARSAL_SEQUENCES, serve.max_num_seqs or _REHEARSAL_SEQUENCES),
        dtype="bfloat16",
        seed=serve.seed,
        enforce_eager=True,
        trust_remote_code=serve.trust_remote_code,
        environment=kept,
    )
