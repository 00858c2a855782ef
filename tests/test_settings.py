from __future__ import annotations

from pathlib import Path

import pytest

from quantpipe.errors import UsageError
from quantpipe.settings import PROJECT_ROOT, Settings


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.resolve({})
    assert settings.store == tmp_path / "store"
    assert settings.quantize_python == PROJECT_ROOT / ".venv-quantize" / "bin" / "python"
    assert settings.serve_python == PROJECT_ROOT / ".venv-serve" / "bin" / "python"
    assert 1 <= settings.jobs <= 8
    assert (settings.stall_seconds, settings.port) == (1800, 0)


def test_flags_win_over_the_environment_and_that_over_defaults() -> None:
    environment = {"QUANTPIPE_STORE": "/env", "QUANTPIPE_JOBS": "3", "QUANTPIPE_STALL_SECONDS": "2.5"}
    settings = Settings.resolve(environment, store=Path("/flag"), jobs=None, port=0)
    assert settings.store == Path("/flag")
    assert settings.jobs == 3
    assert settings.stall_seconds == 2.5
    assert settings.port == 0


def test_a_flag_of_zero_is_a_flag() -> None:
    assert Settings.resolve({"QUANTPIPE_PORT": "8000"}, port=0).port == 0


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.resolve({"QUANTPIPE_PORT": "", "QUANTPIPE_STORE": ""}).port == 0


def test_home_is_expanded_and_links_of_interpreters_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "python").symlink_to("/usr/bin/env")
    settings = Settings.resolve({"QUANTPIPE_STORE": "~/s", "QUANTPIPE_QUANTIZE_PYTHON": "~/python"})
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
def test_wrong_values_name_the_variable(name: str, value: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.resolve({f"QUANTPIPE_{name}": value})
    assert repr(value) in caught.value.what
    assert f"QUANTPIPE_{name}" in (caught.value.where or "")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "value"), [("PORT", "65535"), ("JOBS", "1"), ("STALL_SECONDS", "1")])
def test_limits_belong_to_the_range(name: str, value: str) -> None:
    settings = Settings.resolve({f"QUANTPIPE_{name}": value})
    assert getattr(settings, name.lower()) == float(value)


def test_an_unknown_flag_is_a_mistake_in_the_program() -> None:
    with pytest.raises(TypeError, match="speed"):
        Settings.resolve({}, speed=3)
