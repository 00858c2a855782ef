"""The versions that decide the bits of the output."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("msmodelslim", "torch", "torch_npu", "transformers", "safetensors", "numpy")


def versions() -> dict[str, str]:
    """The versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
