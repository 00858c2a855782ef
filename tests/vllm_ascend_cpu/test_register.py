from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.serve_env


def test_registration(run_checks: Callable[..., None]) -> None:
    run_checks("check_register.py")
