"""Damage as storage does it."""

from __future__ import annotations

import os
from pathlib import Path


def flip(path: Path, position: int = -1) -> None:
    """One bit, as a disk does it: neither size nor time say so."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(position % before.st_size)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(before.st_mode)
