from __future__ import annotations

import pytest

from quantpipe.checkpoint.support import supported_types, version_of


@pytest.mark.parametrize(
    ("kind", "target", "types"),
    [
        ("attention", "0.23.0", {"FLOAT", "W8A8", "W8A8_DYNAMIC", "W8A8_MIX", "W4A8_DYNAMIC", "W8A16"}),
        ("attention", "0.26.0", {"FLOAT", "W8A8", "W8A8_DYNAMIC", "W8A8_MIX", "W4A8_DYNAMIC", "W8A16"}),
        ("mlp", "main", {"FLOAT", "W8A8", "W8A8_DYNAMIC", "W8A16"}),
        ("expert", "0.21.0rc1", {"FLOAT", "W8A8_DYNAMIC", "W8A8_MIX", "W4A8_DYNAMIC"}),
        ("expert", "main", {"FLOAT", "W8A8_DYNAMIC", "W4A8_DYNAMIC"}),
        ("expert", "0.27.0", {"FLOAT", "W8A8_DYNAMIC", "W4A8_DYNAMIC"}),
        ("embed", "0.23.0", {"FLOAT"}),
    ],
)
def test_support_table(kind: str, target: str, types: set[str]) -> None:
    assert supported_types(target, kind) == types


def test_versions() -> None:
    assert version_of("0.9.1") < version_of("0.26.0") < version_of("0.100.0") < version_of("main")
    with pytest.raises(ValueError, match="not a version"):
        version_of("new")
