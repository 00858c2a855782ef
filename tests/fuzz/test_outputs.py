"""What other programs print: servers' logs and the table of npu-smi."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st

from quantpipe.smoke.devices import processes_in
from quantpipe.smoke.diagnose import diagnose

from .harness import edited, ends, fuzz

TABLE = b"""\
+---------------------------+---------------+-------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)   |
+===========================+===============+=================================================+
| 0       0                 | 4242          | python3                  | 54321                |
| 1       0                 | 4243          | VLLM::Worker             | 54000                |
| No running processes found in NPU 2                                                         |
"""
LOGS = [
    b"(EngineCore pid=7) ERROR [core.py:1] RuntimeError: NPU out of memory\n  tried to allocate 2 GiB\n",
    b"Traceback (most recent call last):\n  File \"a.py\", line 1, in f\nKeyError: 'model.norm.weight'\n",
    b"ValueError: Detected some but not all shards of model.layers.0 are quantized\n    more of it\n",
    b"(Worker_TP0 pid=8) ImportError: libascend_hal.so: cannot open shared object file\n",
    b"INFO 11-24 [api_server.py:1] Started server process\n",
]
WORDS = (b"ERROR ", b"Error: ", b"(", b")", b"] ", b": ", b"  ", b"\r", b"\x1b[2J", b"\n", b".", b"hccl")
LONG_WORDS = (
    *WORDS,
    b"(a) ",
    b"ERROR a] ",
    b"requires ",
    b"x" * 10,
    b"HCCL ",
    b"Error response from daemon ",
)


@fuzz(edited([TABLE], (b"|", b"9" * 5000, b" " * 500, "٣".encode(), b"\n", b"\xff")))
def test_npu_smi(table: bytes) -> None:
    found = ends(lambda: processes_in(table.decode("utf-8", "replace")))
    assert found is not None
    assert all(process >= 0 and memory >= 0 for process, memory in found.items())


def test_the_table_is_right() -> None:
    assert processes_in(TABLE.decode()) == {4242: 54321, 4243: 54000}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "server.log"


@fuzz(st.one_of(edited(LOGS, WORDS), st.lists(st.sampled_from([*LOGS, *WORDS]), max_size=30).map(b"".join)))
def test_server_logs(log: Path, text: bytes) -> None:
    log.write_bytes(text)
    error = ends(lambda: diagnose(log, 0, "the server ended with 1"))
    assert error is not None and error.hint


@pytest.mark.parametrize("piece", LONG_WORDS)
def test_one_long_line_takes_no_time(log: Path, piece: bytes) -> None:
    log.write_bytes(piece * (200_000 // len(piece)) + b"!")
    assert ends(lambda: diagnose(log, 0, "the server ended with 1")) is not None
