from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verify.edit import stored, write, write_raw

import quantpipe
from quantpipe.checkpoint.safetensors import DTYPE_BYTES, Header, load_header, parse_header, read_header
from quantpipe.checkpoint.strict_json import MAX_JSON_BYTES

ONE = {"dtype": "I8", "shape": [2, 2], "data_offsets": [0, 4]}


def parse(value: Any, data: int = 4) -> Header:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_header(raw, "s", 8 + len(raw) + data)


def test_reads_what_safetensors_writes(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    library = pytest.importorskip("safetensors.numpy")
    content = {"a": numpy.ones((3, 2), "f4"), "b": numpy.zeros(5, "i1"), "c": numpy.zeros((0, 4), "f2")}
    library.save_file(content, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "x.safetensors", "x.safetensors")
    assert header.problems == ()
    assert header.trailing == 0
    found = {tensor.name: (tensor.dtype, tensor.shape, tensor.size) for tensor in header.tensors}
    assert found == {"a": ("F32", (3, 2), 24), "b": ("I8", (5,), 5), "c": ("F16", (0, 4), 0)}


def test_offsets_are_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write(path, {"a": stored([1, 2, 3], "I8"), "b": stored([7], "I32")})
    header = read_header(path, "x")
    data = path.read_bytes()
    assert [data[tensor.start : tensor.end] for tensor in header.tensors] == [b"\1\2\3", b"\7\0\0\0"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({**ONE, "dtype": "I3"}, "unknown dtype"),
        ({**ONE, "dtype": ["I8"]}, "unknown dtype"),
        ({**ONE, "shape": [2, 3]}, "needs 6 bytes"),
        ({**ONE, "shape": [-2, -2]}, "not a list of at most 8 sizes"),
        ({**ONE, "shape": [2.0, 2]}, "not a list of at most 8 sizes"),
        ({**ONE, "shape": [True, 4]}, "not a list of at most 8 sizes"),
        ({**ONE, "shape": [1] * 3000 + [4]}, "not a list of at most 8 sizes"),
        ({**ONE, "shape": "4"}, "not a list of at most 8 sizes"),
        ({**ONE, "data_offsets": [4, 0]}, "not a byte range"),
        ({**ONE, "data_offsets": [-4, 0]}, "not a byte range"),
        ({**ONE, "data_offsets": [0]}, "not a byte range"),
        ({**ONE, "data_offsets": [0, 4, 4]}, "not a byte range"),
        ({**ONE, "shape": [10**18, 10**18], "data_offsets": [0, 4]}, "needs"),
        ([], "not an object"),
        (None, "not an object"),
    ],
)
def test_bad_entry(entry: Any, words: str) -> None:
    header = parse({"a": entry})
    assert any(words in problem for problem in header.problems)
    assert header.tensors == ()


def test_overlap_gap_truncation_and_trailing_bytes() -> None:
    both = {"a": ONE, "b": {**ONE, "data_offsets": [2, 6]}}
    assert "overlap" in parse(both, 6).problems[0]
    assert "belong to no tensor" in parse({"a": {**ONE, "data_offsets": [3, 7]}}, 7).problems[0]
    assert "truncated" in parse({"a": ONE}, 3).problems[0]
    assert parse({"a": ONE}, 9).trailing == 5
    inside = {"a": {**ONE, "shape": [8], "data_offsets": [0, 8]}, "b": {**ONE, "data_offsets": [2, 6]}}
    assert "overlap" in parse(inside, 8).problems[0]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b', "b": "' + b"x" * 99000 + b'"}', "nested"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": 1, "b": 2, "a": 3}', "twice"),
        (b"{" + b'"":[],' * 2000 + b'"b":1}', "brackets"),
    ],
)
def test_bad_json(raw: bytes, words: str) -> None:
    (problem,) = parse(raw).problems
    assert words in problem


def test_duplicate_tensor_is_named() -> None:
    entry = json.dumps(ONE)
    (problem,) = parse(f'{{"w": {entry}, "w": {entry}}}'.encode()).problems
    assert "'w' twice" in problem


@pytest.mark.parametrize("length", [100 * 10**9, 2**63 - 1, 2**64 - 1, MAX_JSON_BYTES + 1])
def test_huge_claim_allocates_nothing(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    write_raw(path, b'{"a":1}', length=length)
    if length == MAX_JSON_BYTES + 1:
        os.truncate(path, MAX_JSON_BYTES * 4)  # sparse: the claim fits the file, and is still refused
    tracemalloc.start()
    try:
        header = read_header(path, "x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(header.problems) == 1
    assert not header.parsed
    assert peak < 1 << 20


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "dangling.safetensors").symlink_to("nowhere")
    for name in ("pipe", "folder", "dangling"):
        header = read_header(tmp_path / f"{name}.safetensors", name)
        assert len(header.problems) == 1, name


def test_many_problems_are_cut_short() -> None:
    header = parse({f"t{i}": [] for i in range(1000)})
    assert len(header.problems) == 21
    assert "980 more" in header.problems[-1]


NAMES = st.text(max_size=12)
SIZES = st.one_of(st.integers(-3, 40), st.integers(), st.floats(), st.none(), NAMES)
ENTRIES = st.one_of(
    st.fixed_dictionaries(
        {
            "dtype": st.one_of(st.sampled_from(sorted(DTYPE_BYTES)), NAMES, st.none()),
            "shape": st.one_of(st.lists(SIZES, max_size=4), NAMES),
            "data_offsets": st.one_of(st.lists(SIZES, max_size=3), NAMES),
        }
    ),
    st.recursive(SIZES, lambda inner: st.lists(inner, max_size=3), max_leaves=6),
)


@settings(max_examples=300, deadline=2000)
@given(value=st.dictionaries(NAMES, ENTRIES, max_size=6), data=st.integers(0, 64))
def test_fuzzed_entries_never_raise_and_hold_their_laws(value: Any, data: int) -> None:
    raw = json.dumps(value).encode()
    size = 8 + len(raw) + data
    header = parse_header(raw, "s", size)
    for tensor in header.tensors:
        assert 8 + len(raw) <= tensor.start <= tensor.end
        assert tensor.end <= size or header.problems
    if not header.problems:
        covered = sum(tensor.size for tensor in header.tensors)
        assert covered + header.trailing == data


@settings(max_examples=300, deadline=2000)
@given(content=st.binary(max_size=300), length=st.one_of(st.none(), st.integers(0, 2**64 - 1)))
def test_fuzzed_files_never_raise(tmp_path_factory: Any, content: bytes, length: int | None) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz-{os.getpid()}.safetensors"
    prefix = b"" if length is None else length.to_bytes(8, "little")
    path.write_bytes(prefix + content)
    header = read_header(path, "s")
    assert header.parsed or header.problems


@settings(max_examples=100, deadline=2000)
@given(at=st.integers(0, 10**6), byte=st.integers(0, 255), data=st.data())
def test_a_valid_header_with_a_changed_byte(at: int, byte: int, data: Any) -> None:
    raw = bytearray(json.dumps({"a": ONE, "b": {**ONE, "data_offsets": [4, 8]}}).encode())
    raw[at % len(raw)] = byte
    header = parse_header(bytes(raw), "s", 8 + len(raw) + 8)
    assert header.problems or {tensor.size for tensor in header.tensors} <= {0, 4, 8}


def test_a_large_header_is_quick() -> None:
    value = {
        f"model.layers.{i // 400}.mlp.experts.{i % 400}.up_proj.weight": {
            **ONE,
            "data_offsets": [4 * i, 4 * i + 4],
        }
        for i in range(20_000)
    }
    start = time.process_time()
    header = parse(value, 80_000)
    assert time.process_time() - start < 3
    assert len(header.tensors) == 20_000
    assert header.problems == ()


def test_a_whole_file_has_no_defect_and_any_other_one() -> None:
    assert parse({"a": ONE}).defect is None
    assert parse({}, 0).defect is None
    assert parse(
        {"a": ONE}, 9
    ).defect == f"has {8 + len(json.dumps({'a': ONE})) + 9:,} bytes, its tensors " + (
        f"end at byte {8 + len(json.dumps({'a': ONE})) + 4:,}"
    )
    two = parse({"a": [], "b": {**ONE, "dtype": "I3"}})
    assert two.defect == two.problems[0]


def test_a_file_that_cannot_be_read_is_told_from_one_that_is_wrong(tmp_path: Path) -> None:
    """A passing fault of the storage must not pass for a damaged source."""
    with pytest.raises(FileNotFoundError):
        load_header(tmp_path / "x.safetensors", "x")
    assert read_header(tmp_path / "x.safetensors", "x").problems == (
        "cannot be read: No such file or directory",
    )


PACKAGE = Path(quantpipe.__file__).parent


def test_there_is_no_second_parser_of_headers() -> None:
    """Four of them had four limits and four wordings: any module that needs a header calls `load_header`."""
    parses = re.compile(
        r"from_bytes\(.*little|unpack(_from)?\(|struct\.Struct|\bsafe_open\b|\bimport struct\b"
    )
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if parses.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"checkpoint/safetensors.py"}


def test_its_importers_need_the_standard_library_only() -> None:
    """The quantize worker and the vLLM plugin use these modules without the core's dependencies."""
    modules = (
        "chat_template",
        "description",
        "dims",
        "index",
        "modules",
        "names",
        "safetensors",
        "strict_json",
        "support",
        "tensors",
    )
    imports = ", ".join(f"quantpipe.checkpoint.{name}" for name in modules)
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import {imports}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
