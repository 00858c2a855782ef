"""Who verifies sees the device and not the page cache: on its own ext4, whose bytes change underneath."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from quantpipe.digest import hash_file
from quantpipe.fetch.hashes import Hashes
from quantpipe.fetch.hub import RemoteFile

MARK = b"quantpipe-page-cache-test-" * 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A mounted ext4, and the file that is its device."""
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(24 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs root and loop devices")
    try:
        yield mount, image
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.fixture
def rotten(disk: tuple[Path, Path]) -> Path:
    """A file whose bytes on the device changed after they were written, while the cache has the old ones."""
    mount, image = disk
    path = mount / "model.safetensors"
    with path.open("wb") as file:
        file.write(MARK * 100)
        file.flush()
        os.fsync(file.fileno())
    os.sync()
    raw = image.read_bytes()
    place = raw.index(MARK)
    with image.open("r+b") as device:
        device.seek(place + 10)
        device.write(b"ROT")
        os.fsync(device.fileno())
    assert path.read_bytes() == MARK * 100, "the cache does not have what was written"
    return path


def test_a_manifest_is_compared_with_the_device(rotten: Path) -> None:
    before = hashlib.sha256(MARK * 100).hexdigest()
    assert hash_file(rotten) != before


def test_a_deep_fetch_finds_it(rotten: Path) -> None:
    file = RemoteFile("model.safetensors", len(MARK * 100), hashlib.sha256(MARK * 100).hexdigest())
    hashes = Hashes(file)
    hashes.read(rotten)
    assert "instead of" in (hashes.mismatch() or "")
