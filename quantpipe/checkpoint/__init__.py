"""Read a quantized checkpoint and know, without an NPU, whether vLLM-Ascend serves it rightly.

The format is that of msmodelslim 26.1.0's output and vllm-ascend's loader; docs/checks.md lists the checks.
"""

from __future__ import annotations

from quantpipe.checkpoint.finding import Finding, Severity
from quantpipe.checkpoint.layout import Layout
from quantpipe.checkpoint.report import Report
from quantpipe.checkpoint.verify import verify_checkpoint

__all__ = ["Finding", "Layout", "Report", "Severity", "verify_checkpoint"]
