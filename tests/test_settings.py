from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from quantpipe import settings as module
from quantpipe.errors import UsageError
from quantpipe.settings import PROJECT_ROOT, Settings, default_text, flag, kind, variable


@pytest.fixture(autouse=True)
def _no_interpreters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the user who runs the tests do not count here."""
    monkeypatch.delenv("QUANTPIPE_QUANTIZE_PYTHON", raising=False)
    monkeypatch.delenv("QUANTPIPE_SERVE_PYTHON", raising=False)


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.store == tmp_path / "store"
    assert settings.quantize_python == PROJECT_ROOT / ".venv-quantize" / "bin" / "python"
    assert settings.serve_python == PROJECT_ROOT / ".venv-serve" / "bin" / "python"
    assert 1 <= settings.jobs <= 8
    assert (settings.stall_seconds, settings.port) == (1800, 0)


def test_outside_of_a_checkout_no_interpreter_is_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROJECT_ROOT", tmp_path)
    assert Settings().quantize_python is None
    assert Settings().serve_python is None


def test_flags_win_over_the_environment_and_that_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STORE": "/env", "JOBS": "3", "STALL_SECONDS": "2.5"}.items():
        monkeypatch.setenv(f"QUANTPIPE_{name}", value)
    settings = Settings(store=Path("/flag"), port=0)
    assert settings.store == Path("/flag")
    assert settings.jobs == 3
    assert settings.stall_seconds == 2.5
    assert settings.port == 0


def test_a_flag_of_zero_is_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTPIPE_PORT", "8000")
    assert Settings(port=0).port == 0


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTPIPE_PORT", "")
    monkeypatch.setenv("QUANTPIPE_STORE", "")
    assert Settings().port == 0
    assert Settings().store == Path("store").absolute()


def test_home_is_expanded_and_links_of_interpreters_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "python").symlink_to("/usr/bin/env")
    monkeypatch.setenv("QUANTPIPE_STORE", "~/s")
    monkeypatch.setenv("QUANTPIPE_QUANTIZE_PYTHON", "~/python")
    settings = Settings()
    assert settings.store == tmp_path / "s"
    assert settings.quantize_python == tmp_path / "python"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "80.5"),
        ("PORT", "nan"),
        ("JOBS", "0"),
        ("JOBS", "many"),
        ("JOBS", "inf"),
        ("JOBS", "1.5"),
        ("STALL_SECONDS", "0"),
        ("STALL_SECONDS", "nan"),
    ],
)
def test_wrong_values_name_the_flag_and_the_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"QUANTPIPE_{name}", value)
    with pytest.raises(UsageError) as caught:
        Settings()
    assert repr(value) in caught.value.what
    assert caught.value.where == f"{flag(name.lower())} or QUANTPIPE_{name}"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "value"), [("PORT", "65535"), ("JOBS", "1"), ("STALL_SECONDS", "1")])
def test_limits_belong_to_the_range(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"QUANTPIPE_{name}", value)
    assert getattr(Settings(), name.lower()) == float(value)


def test_all_wrong_settings_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Settings(port=-1, jobs=0)
    assert [line.split(":")[0] for line in caught.value.details] == [
        "--jobs or QUANTPIPE_JOBS",
        "--port or QUANTPIPE_PORT",
    ]


def test_an_unknown_flag_is_a_mistake_in_the_program() -> None:
    with pytest.raises(TypeError, match="speed"):
        Settings(speed=3)  # type: ignore[call-arg]


def test_a_value_never_changes() -> None:
    with pytest.raises(ValidationError):
        Settings().jobs = 3


def test_every_setting_says_what_it_is_and_what_it_defaults_to() -> None:
    for name, field in Settings.model_fields.items():
        assert (field.description or "").endswith(".")
        assert variable(name).removeprefix("QUANTPIPE_").lower() == name
        assert kind(name).startswith(("a ", "an "))
        if field.default is not None:
            assert default_text(name)
    assert default_text("jobs") == "the number of CPUs, at most 8"
    assert default_text("fetch_stall_seconds") == "60"
    assert kind("jobs") == "a whole number from 1 to 1024"
    assert kind("fetch_jobs") == "a whole number of at least 1"
    assert kind("fetch_stall_seconds") == "a number greater than 0"
    assert kind("serve_python") == "a path"
