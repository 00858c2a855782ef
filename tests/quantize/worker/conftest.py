"""Fixtures of all tests that run in the worker's interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .engines import Quantizer


@pytest.fixture(scope="session")
def quantizer() -> Quantizer:
    from .engines import Quantizer  # needs torch: the core reads this file too

    return Quantizer()
