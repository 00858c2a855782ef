"""Read a quantized checkpoint and know, without an NPU, whether vLLM-Ascend serves it rightly.

The format is that of msmodelslim 26.1.0's output and vllm-ascend's loader; docs/checks.md lists the checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantpipe.checkpoint.finding import Finding, Severity
from quantpipe.checkpoint.layout import Layout
from quantpipe.checkpoint.report import Report

if TYPE_CHECKING:
    from quantpipe.checkpoint.verify import verify_checkpoint

__all__ = ["Finding", "Layout", "Report", "Severity", "verify_checkpoint"]


def __getattr__(name: str) -> Any:
    """Import the checks, and numpy with them, only when they are asked for (PEP 562)."""
    if name == "verify_checkpoint":
        from quantpipe.checkpoint.verify import verify_checkpoint

        return verify_checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
