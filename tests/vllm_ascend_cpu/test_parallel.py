from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = [pytest.mark.serve_env, pytest.mark.slow]


def test_two_ranks(run_checks: Callable[..., None]) -> None:
    run_checks("check_parallel.py", timeout=600)
