from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.serve_env


def test_the_engine_computes_what_the_reference_does(run_checks: Callable[..., None]) -> None:
    run_checks("check_load.py", "check_moe_v1", "check_dense_v0_with_norm_biases")


@pytest.mark.slow
def test_further_layouts(run_checks: Callable[..., None]) -> None:
    checks = ("moe_v0_with_norm_biases", "moe_with_excluded_layers", "dense_with_attention_bias", "dense_v1")
    run_checks("check_load.py", *(f"check_{name}" for name in checks))
