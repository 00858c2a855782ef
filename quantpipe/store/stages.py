"""The names of the stages in their order; by themselves, since the command line needs them at once."""

from __future__ import annotations

from typing import Literal, get_args

StageName = Literal["fetch", "quantize", "verify", "smoke", "publish"]
"""As in `--from`, in receipts and in the names of their files."""

STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
"""In the order in which they run."""
