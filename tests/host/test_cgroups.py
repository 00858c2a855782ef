from __future__ import annotations

from pathlib import Path

import pytest

from quantpipe.host import cgroups, procfs

VERSION_2 = "0::/pods/one"
VERSION_1 = "9:cpu:/x\n4:memory:/pods/one"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroups, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("listing", "folder", "limit", "used"),
    [
        (VERSION_2, "pods", "memory.max", "memory.current"),
        (VERSION_1, "memory/pods", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_what_is_left_counts_groups_above_and_none_without_a_limit(
    root: Path, monkeypatch: pytest.MonkeyPatch, listing: str, folder: str, limit: str, used: str
) -> None:
    group = root / folder
    (group / "one").mkdir(parents=True)
    (group / limit).write_text(f"{3 << 20}\n")
    (group / used).write_text(f"{1 << 20}\n")
    (group / "one" / limit).write_text("max\n")
    (group / "one" / used).write_text("0\n")
    monkeypatch.setattr(procfs, "control_groups", lambda: listing)
    assert cgroups.memory_left() == [2 << 20]


@pytest.mark.parametrize(
    ("listing", "file", "text"),
    [
        (VERSION_2, "pods/one/memory.events", "low 0\noom 5\noom_kill 3\n"),
        (VERSION_1, "memory/pods/one/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
    ],
)
def test_kills_of_the_own_group(
    root: Path, monkeypatch: pytest.MonkeyPatch, listing: str, file: str, text: str
) -> None:
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(text)
    monkeypatch.setattr(procfs, "control_groups", lambda: listing)
    assert cgroups.out_of_memory_kills() == 3


@pytest.mark.parametrize("listing", ["", VERSION_2, VERSION_1])
def test_without_files_nothing_is_known(root: Path, monkeypatch: pytest.MonkeyPatch, listing: str) -> None:
    monkeypatch.setattr(procfs, "control_groups", lambda: listing)
    assert cgroups.memory_left() == []
    assert cgroups.out_of_memory_kills() == 0
