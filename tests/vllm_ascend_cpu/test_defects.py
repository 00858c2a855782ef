from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.serve_env


def test_spoiled_checkpoints_fail_by_name(run_checks: Callable[..., None]) -> None:
    run_checks("check_defects.py")
