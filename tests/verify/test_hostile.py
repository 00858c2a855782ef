"""Whatever a directory holds, verifying it ends in a report: no crash, no hang."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantpipe.verify.finding import printable
from quantpipe.verify.report import Report
from quantpipe.verify.verify import verify_checkpoint
from verify import edit

pytestmark = pytest.mark.quantize_env
BOUNDED = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD = st.one_of(
    st.none(),
    st.integers(-3, 70),
    st.integers(),
    st.text(max_size=5),
    st.sampled_from(
        ["FLOAT", "W8A8", "W8A8_DYNAMIC", "W8A8_MIX", "W8A16", "W4A8_DYNAMIC", "\ud800", "\x1b[2J"]
    ),
    st.lists(st.integers(-2, 99), max_size=3),
    st.just({}),
)


def verify(path: Path, source: Path) -> Report:
    report = verify_checkpoint(path, deep=True, against=source)
    for line in report.lines():
        line.encode("utf-8")  # no lone surrogate gets as far as a terminal
        assert line.isprintable()
    json.dumps(report.to_json(), allow_nan=False)
    return report


def fresh(made: Path, tmp_path: Path, kind: str) -> Path:
    target = tmp_path / f"hostile-{os.getpid()}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(made / kind, target)
    for path in target.rglob("*"):
        path.chmod(0o755)
    return target


@BOUNDED
@given(data=st.data(), kind=st.sampled_from(["v1-moe", "v0-moe"]))
def test_changed_bytes_in_any_file(made: Path, tmp_path: Path, data: Any, kind: str) -> None:
    path = fresh(made, tmp_path, kind)
    file = data.draw(st.sampled_from(sorted(p for p in path.rglob("*") if p.is_file())))
    content = bytearray(file.read_bytes())
    reach = min(len(content), 20_000)  # where headers are
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(0, reach - 1), st.integers(0, 255)), max_size=8)
    ):
        content[at] = byte
    file.write_bytes(content)
    verify(path, made / "bf16-moe")


@BOUNDED
@given(data=st.data(), kind=st.sampled_from(["v1-moe", "v0-moe", "v1-dense"]))
def test_changed_json(made: Path, tmp_path: Path, data: Any, kind: str) -> None:
    path = fresh(made, tmp_path, kind)
    file = data.draw(st.sampled_from(sorted(path.glob("*.json"))))
    with edit.json_file(file) as value:
        for key in data.draw(st.lists(st.sampled_from(sorted(value)), min_size=1, max_size=4)):
            value[key] = data.draw(ODD)
    verify(path, made / ("bf16-dense" if "dense" in kind else "bf16-moe"))


@BOUNDED
@given(data=st.data(), kind=st.sampled_from(["v1-moe", "v0-moe"]))
def test_changed_tensors(made: Path, tmp_path: Path, data: Any, kind: str) -> None:
    """Tensors of other dtypes and shapes under known names, and known tensors under odd names."""
    path = fresh(made, tmp_path, kind)
    with edit.tensors(path) as content:
        names = sorted(content)
        for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=5, unique=True)):
            old = content.pop(name)
            if data.draw(st.booleans()):
                dtype, size = data.draw(
                    st.sampled_from([("I8", 1), ("F32", 4), ("BF16", 2), ("BOOL", 1), ("I64", 8)])
                )
                shape = tuple(data.draw(st.lists(st.integers(0, 9), max_size=3)))
                count = 1
                for length in shape:
                    count *= length
                content[name] = edit.Stored(dtype, shape, os.urandom(count * size))
            else:
                content[
                    data.draw(
                        st.sampled_from(
                            [
                                name + ".x",
                                "model.layers.999999.mlp.experts.9999.a.weight",
                                "\ud800.weight",
                                "x" * 5000,
                                "",
                            ]
                        )
                    )
                ] = old
    verify(path, made / "bf16-moe")


def test_a_sparse_shard_is_no_allocation(made: Path, tmp_path: Path) -> None:
    path = fresh(made, tmp_path, "v1-moe")
    size = 1 << 40
    header = {"w": {"dtype": "I8", "shape": [size], "data_offsets": [0, size]}}
    shard = path / "huge.safetensors"
    edit.write_raw(shard, json.dumps(header).encode())
    os.truncate(shard, shard.stat().st_size + size)
    report = verify_checkpoint(path)
    assert [f.id for f in report.errors] == ["A8"]


def test_links_and_folders_named_like_files(made: Path, tmp_path: Path) -> None:
    path = fresh(made, tmp_path, "v1-moe")
    (path / "loop.safetensors").symlink_to("loop.safetensors")
    os.mkfifo(path / "pipe.safetensors")
    (path / "folder.safetensors").mkdir()
    assert {f.id for f in verify_checkpoint(path, deep=True).errors} == {"A12"}
    (path / "config.json").unlink()
    (path / "config.json").mkdir()
    report = verify_checkpoint(path, deep=True)
    assert {f.id for f in report.errors} == {"A9", "A12"}


@pytest.mark.parametrize(
    ("text", "shown"), [("a.b", "a.b"), ("a\x1bb", "a\\x1bb"), ("\ud800", "\\ud800"), ("ä", "ä")]
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert len(printable("x" * 10**6)) == 303
