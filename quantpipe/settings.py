"""Settings: how to run. Flags override environment variables, which override defaults; none is digested.

A field of `Settings` is the one home of its setting: its environment variable, its option on the command
line, their help and docs/settings.md are derived from it. Import this module where a command needs it, not
before: pydantic costs 60 ms. (pydantic-settings would cost another 60 ms in every command, for the few lines
of `_from_environment`.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails

from quantpipe.errors import UsageError

PROJECT_ROOT = Path(__file__).resolve().parent.parent
"""The checkout, when quantpipe runs from one; its environments are here."""


def _absolute(path: Path) -> Path:
    """Links stay: a virtual environment is found through the link that its interpreter is."""
    try:
        return path.expanduser().absolute()
    except FileNotFoundError as error:
        raise UsageError(
            f"the current directory is gone, and {path} is relative to it",
            hint="change to a directory that exists, or give absolute paths",
        ) from error


def _quantize_python() -> Path | None:
    """.venv-quantize of a checkout"""
    return _of_checkout(".venv-quantize")


def _serve_python() -> Path | None:
    """.venv-serve of a checkout"""
    return _of_checkout(".venv-serve")


def _of_checkout(environment: str) -> Path | None:
    """The interpreter that `make setup` creates; None where quantpipe is installed as a package."""
    if not (PROJECT_ROOT / "pyproject.toml").is_file():
        return None
    return PROJECT_ROOT / environment / "bin" / "python"


def _jobs() -> int:
    """the number of CPUs, at most 8"""
    return min(8, os.cpu_count() or 1)


def _listed(value: Any) -> Any:
    """The items of a text: flags and variables have no other form for a list."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


_Place = Annotated[Path, AfterValidator(_absolute)]
_Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class Settings(BaseModel):
    """How to run. Values that the caller does not give come from QUANTPIPE_*, then from defaults.

    Raises:
        UsageError: a value is not of its type; the message names the flag and the variable.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    store: _Place = Field(
        default=Path("store"), description="Root of the store, on storage that all hosts share."
    )
    quantize_python: _Place | None = Field(
        default_factory=_quantize_python, description="Interpreter that has msmodelslim."
    )
    serve_python: _Place | None = Field(
        default_factory=_serve_python, description="Interpreter that has vLLM."
    )
    jobs: int = Field(
        default_factory=_jobs, ge=1, le=1024, description="Files fetched or hashed at the same time."
    )
    stall_seconds: float = Field(
        default=1800.0, ge=1, description="Seconds for which the quantize worker may show no sign of life."
    )
    port: int = Field(default=0, ge=0, le=65535, description="Port of the smoke server; 0 picks a free one.")
    fetch_attempts: int = Field(
        default=8,
        ge=1,
        description="Failed attempts in a row, for each file and each request to the hub.",
    )
    fetch_stall_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds in which a transfer has to deliver 64 KiB; a slower one is retried.",
    )
    fetch_jobs: int | None = Field(
        default=None,
        ge=1,
        description="Files fetched at the same time; overrides `jobs` and the hub's own limit.",
    )
    pass_environment: _Names = Field(
        default=(),
        description="More variables for worker, server and benchmark; `X_*` is every name with this start.",
    )
    api_key_urls: _Names = Field(
        default=(),
        description="Addresses of running servers (launcher attach) that VLLM_API_KEY may be sent to.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(
        cls, values: Any, handler: ModelWrapValidatorHandler[Settings], info: ValidationInfo
    ) -> Settings:
        del (
            info
        )  # in the signature because mypy cannot distinguish pydantic's protocol without it from this one
        try:
            return handler(
                {**_from_environment(os.environ), **values} if isinstance(values, dict) else values
            )
        except ValidationError as error:
            raise _usage_error(error.errors(include_url=False)) from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that variables give, as text; an empty variable counts as unset."""
    texts = {name: environment.get(variable(name)) for name in Settings.model_fields}
    return {name: text for name, text in texts.items() if text}


def flag(name: str) -> str:
    """The option of a setting: `--fetch-jobs`."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """The environment variable of a setting: QUANTPIPE_FETCH_JOBS."""
    return f"QUANTPIPE_{name.upper()}"


def default_text(name: str) -> str:
    """A setting's default as people read it; one that depends on the host says how in its docstring."""
    field = Settings.model_fields[name]
    if field.default_factory is not None:
        return field.default_factory.__doc__ or ""
    if field.default == ():
        return "none"
    return "" if field.default is None else f"{field.default}".removesuffix(".0")


def kind(name: str) -> str:
    """The type of a setting, with its limits: `a whole number from 1 to 1024`."""
    schema = _schemas()[name]
    schema = {**schema.get("anyOf", [{}])[0], **schema}
    kinds = {"integer": "a whole number", "number": "a number", "array": "a list, separated by commas"}
    text = kinds.get(schema["type"], "a path")
    if "maximum" in schema:
        return f"{text} from {schema['minimum']} to {schema['maximum']}"
    if "minimum" in schema:
        return f"{text} of at least {schema['minimum']}"
    if "exclusiveMinimum" in schema:
        return f"{text} greater than {schema['exclusiveMinimum']}"
    return text


@cache
def _schemas() -> dict[str, Any]:
    """The JSON schema of each setting."""
    return dict(Settings.model_json_schema()["properties"])


def _usage_error(problems: Sequence[ErrorDetails]) -> UsageError:
    """All problems as one error.

    Raises:
        TypeError: a keyword is not a setting: a mistake in the calling program.
    """
    names = [str(problem["loc"][0]) for problem in problems]
    if unknown := [name for name in names if name not in Settings.model_fields]:
        raise TypeError(f"unknown settings {unknown}")
    texts = [
        f"{name.replace('_', '-')} must be {kind(name)}, not {problem['input']!r}"
        for name, problem in zip(names, problems, strict=True)
    ]
    places = [f"{flag(name)} or {variable(name)}" for name in names]
    hint = "correct the flag or the environment variable"
    if len(texts) == 1:
        return UsageError(texts[0], where=places[0], hint=hint)
    details = [f"{place}: {text}" for place, text in zip(places, texts, strict=True)]
    return UsageError(f"{len(texts)} settings are invalid", hint=hint, details=details)
