"""Stage 3: read a checkpoint and decide, without an NPU, whether vLLM-Ascend serves it correctly.

The format is that of msmodelslim 26.1.0's output and vllm-ascend's loader; docs/checks.md lists the checks.

The package can be called: `quantpipe.verify(path)`. The public API has a function of the package's name, and
Python sets the attribute `quantpipe.verify` to the package as soon as anybody imports a module of it,
whatever stood there before. So the package and the function are one object (the reference of Python's data
model has this use of a module's `__class__` under "Customizing module attribute access").
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from quantpipe.verify.report import Report


class _CallablePackage(ModuleType):
    def __call__(self, path: Path | str, **options: Any) -> Report:
        """As `quantpipe.verify.standalone.verify`, which has the options with their types."""
        from quantpipe.verify.standalone import verify

        return verify(path, **options)


sys.modules[__name__].__class__ = _CallablePackage
