"""Every check: this module imports the modules that register them."""

from __future__ import annotations

from quantpipe.verify.checks import description, files, layout, source, tensors, values
from quantpipe.verify.checks.registry import Check, registered

MODULES = (description, files, layout, source, tensors, values)


def all_checks() -> list[Check]:
    """Every check, in the order of their ids."""
    return registered()
