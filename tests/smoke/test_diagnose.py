from __future__ import annotations

import re
from pathlib import Path

import pytest

from quantpipe.errors import PreflightError, QuantpipeError, SmokeError
from quantpipe.smoke.causes import CAUSES
from quantpipe.smoke.diagnose import diagnose, first_error

# For each cause what real logs say, and whether the fault is the host's.
SAID = [
    ("OSError: [Errno 98] Address already in use", "port is in use", PreflightError),
    ("/env/bin/python: No module named vllm", "not installed", PreflightError),
    ("ModuleNotFoundError: No module named 'vllm'", "not installed", PreflightError),
    ("torch.OutOfMemoryError: NPU out of memory. Tried to allocate 2 GiB", "out of memory", PreflightError),
    ("ValueError: No available memory for the cache blocks.", "out of memory", PreflightError),
    ("OSError: [Errno 12] Cannot allocate memory", "out of memory", PreflightError),
    ("RuntimeError: HCCL function error: hcclCommInitRootInfo(...), error code is 7", "HCCL", PreflightError),
    ("EI0006: Getting socket times out.", "HCCL", PreflightError),
    ("libascend_hal.so: cannot open shared object file: No such file", "driver is missing", PreflightError),
    ("drvErr=87, device is not there", "driver is missing", PreflightError),
    ("ValueError: ModelSlim Quantization Config Not Found", "description is missing", SmokeError),
    (
        "CheckpointLoadError: --quantization ascend needs quant_model_description.json, which is missing",
        "description is missing",
        SmokeError,
    ),
    ("ValueError: Unknown quantization method: ascend. Must be one of", "does not have", PreflightError),
    ("error: argument --quantization: invalid choice: 'ascend'", "does not have", PreflightError),
    ("RuntimeError: Cannot find any model weights with `/x`", "no weights", SmokeError),
    ("ValueError: No valid checkpoint: quant_model_description.json not found", "is missing", SmokeError),
    (
        "ValueError: Free memory on device (20.1/61.2 GiB) on startup is less than desired",
        "holds",
        PreflightError,
    ),
    (
        "RuntimeError: NPU out of memory. ERR99999 UNKNOWN: alloc device fail, 207001",
        "memory",
        PreflightError,
    ),
    ("ImportError: libhccl.so: cannot open shared object file", "CANN is not set up", PreflightError),
    ("KeyError: 'ASCEND_HOME_PATH'", "CANN is not set up", PreflightError),
    (
        "ImportError: cannot import name 'get_ep_group' from 'vllm.distributed' (/x)",
        "versions",
        PreflightError,
    ),
    ("ModuleNotFoundError: No module named 'vllm.attention.layer'", "versions", PreflightError),
    ("ImportError: /x/torch_npu/_C.so: undefined symbol: _ZN3c10", "versions", PreflightError),
    (
        "TypeError: NPUModelRunner.__init__() got an unexpected keyword argument 'a'",
        "versions",
        PreflightError,
    ),
    ("OSError: [Errno 28] No space left on device: '/dev/shm/psm_1'", "no space", PreflightError),
    (
        "PermissionError: [Errno 13] Permission denied: '/s/model-00001.safetensors'",
        "no permission to read",
        PreflightError,
    ),
    ("KeyError: 'model.layers.0.self_attn.q_proj.weight'", "has a quantization_config", SmokeError),
    (
        "ValueError: Detected some but not all shards of model.layers.0.qkv_proj are quantized",
        "alike",
        SmokeError,
    ),
    ("ValueError: Not all shards of x.qkv_proj are quantized with same quant type", "alike", SmokeError),
    (
        "NotImplementedError: vLLM Ascend doesn't support quant_type=W8A8 for layer_type=moe",
        "type",
        SmokeError,
    ),
    ("KeyError: 'model.layers.3.mlp.gate_up_proj.deq_scale'", "loaded as unquantized", SmokeError),
    ("KeyError: 'lm_head.weight'", "description lacks a tensor", SmokeError),
    ("KeyError: 'model.layers.61.eh_proj.weight'", "description lacks a tensor", SmokeError),
    ("KeyError: 'model.layers.5.mlp.gate.weight'", "description lacks a tensor", SmokeError),
    (
        "quantpipe.vllm_ascend_cpu.errors.CheckpointLoadError: 3 tensors are missing",
        "ascend` expects",
        SmokeError,
    ),
    (
        "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
        "shard",
        SmokeError,
    ),
    (
        "quantpipe.vllm_ascend_cpu.errors.CheckpointLoadError: no *.safetensors to load",
        "no weights",
        SmokeError,
    ),
    ("x.errors.CheckpointLoadError: not a safetensors file: header", "shard is truncated", SmokeError),
    ("x.errors.CheckpointLoadError: not a whole safetensors file: 3 bytes", "shard is truncated", SmokeError),
    ("x.CheckpointLoadError: q_proj: 1 of 3 keys are missing", "description lacks a tensor", SmokeError),
    ("x.CheckpointLoadError: qkv: the parts that vLLM fuses have different types", "alike", SmokeError),
    (
        "AssertionError: Attempted to load weight (torch.Size([8])) into parameter",
        "shape differs",
        SmokeError,
    ),
    (
        "ValueError: User-specified max_model_len (99) is greater than the derived max_model_len",
        "YaRN|beyond",
        SmokeError,
    ),
    (
        "ValueError: Total number of attention heads (64) must be divisible by tensor parallel size (6).",
        "divided",
        SmokeError,
    ),
    ("AssertionError: EPLB: 130 physical experts, not divisible", "redundant", SmokeError),
    (
        "api_server.py: error: unrecognized arguments: --async-schedulling",
        "does not have an option",
        SmokeError,
    ),
    (
        "ValueError: Available memory on node 0 (2.3/3.5 GiB) on kv cache allocation is less than requested "
        "memory for kv (4.0 GiB). Decrease --kv-cache-memory-bytes",
        "out of memory",
        PreflightError,
    ),
    ("docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "engine", PreflightError),
    ("docker: Error response from daemon: manifest for quay.io/x:1 not found", "image", PreflightError),
    (
        'docker: error gathering device information while adding custom device "/dev/davinci9"',
        "device",
        PreflightError,
    ),
]


def log_of(tmp_path: Path, *lines: str) -> Path:
    log = tmp_path / "smoke.log"
    log.write_text("\n".join(lines) + "\n")
    return log


@pytest.mark.parametrize(("line", "cause", "kind"), SAID, ids=[line[:40] for line, _, _ in SAID])
def test_each_known_cause(tmp_path: Path, line: str, cause: str, kind: type[QuantpipeError]) -> None:
    prefixed = f"(EngineCore_DP0 pid=77) ERROR 07-28 19:00:00 [core.py:12] {line}"
    for text in (line, prefixed):
        log = log_of(tmp_path, "INFO starting", text, "RuntimeError: Engine core initialization failed.")
        found = diagnose(log, 0, "the server ended")
        assert type(found) is kind
        assert found.what.startswith("the server ended: ") and re.search(
            cause, found.what + (found.hint or "")
        )
        assert (first_error([text]) or "") in found.what
        assert found.hint
        assert found.where == str(log)
        assert text in found.details


def test_every_cause_has_an_example_here() -> None:
    covered = {cause.what for cause in CAUSES if any(cause.pattern.search(line) for line, _, _ in SAID)}
    assert covered == {cause.what for cause in CAUSES}


@pytest.mark.parametrize(
    "chatter",
    [
        "INFO 07-28 19:00:00 [parallel_state.py:1] HCCL communicator initialised",
        "(Worker_TP0 pid=5) INFO 07-28 19:00:00 [x.py:1] keeps 5 % aside against out of memory",
        "DEBUG 07-28 19:00:00 [x.py:1] driver plugin not found, trying the next",
    ],
)
def test_words_of_causes_in_lines_of_success_are_no_cause(tmp_path: Path, chatter: str) -> None:
    found = diagnose(log_of(tmp_path, chatter, "KeyError: 'model.norm'"), 0, "it ended")
    assert isinstance(found, SmokeError)
    assert found.what == "it ended: KeyError: 'model.norm'"


def test_only_this_start_of_the_server_counts(tmp_path: Path) -> None:
    log = log_of(tmp_path, "Address already in use")
    start = log.stat().st_size
    with log.open("a") as file:
        file.write("ValueError: the real one\n")
    assert diagnose(log, start, "ended").what == "ended: ValueError: the real one"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("ValueError: bad", "ValueError: bad"),
        ("torch.AcceleratorError: device gone", "AcceleratorError: device gone"),
        ("(APIServer pid=1) RuntimeError: Engine core failed", "RuntimeError: Engine core failed"),
        (
            "(EngineCore pid=9) ERROR 07-28 10:00:00 [core.py:700] KeyError: 'x.weight'",
            "KeyError: 'x.weight'",
        ),
        ("ERROR 07-28 10:00:00 [core.py:700] KeyError: 'x'", "KeyError: 'x'"),
        ("vllm.v1.engine.exceptions.EngineDeadError: dead", "EngineDeadError: dead"),
        ("google.api.core.SomeException: odd", "SomeException: odd"),
    ],
)
def test_the_lines_that_name_an_exception(line: str, error: str) -> None:
    assert first_error(["Traceback (most recent call last):", line, "RuntimeError: later"]) == error


@pytest.mark.parametrize(
    "prefix", ["", "(EngineCore pid=9) ", "(EngineCore pid=9) ERROR 07-28 10:00:00 [core.py:7] "]
)
def test_the_tensors_that_an_error_names_are_part_of_it(prefix: str) -> None:
    lines = ["CheckpointLoadError: 2 are missing", "  a.weight: missing", "  b.weight: missing", "raise it"]
    found = first_error([prefix + line for line in lines])
    assert found == "CheckpointLoadError: 2 are missing; a.weight: missing; b.weight: missing"
    assert first_error(["KeyError: 'x'", '  File "a.py", line 3']) == "KeyError: 'x'"


def test_a_traceback_s_own_line_is_no_cause(tmp_path: Path) -> None:
    said = "CheckpointLoadError: --quantization ascend needs quant_model_description.json, which is missing"
    log = log_of(tmp_path, "Traceback (most recent call last):", "    raise CheckpointLoadError(", said)
    assert "the description is missing" in diagnose(log, 0, "it ended").what


@pytest.mark.parametrize("line", ["no errors: fine", "Error: lower", "ValueError without a colon", ""])
def test_the_lines_that_do_not(line: str) -> None:
    assert first_error([line]) is None


def test_the_first_error_speaks_and_not_its_consequence(tmp_path: Path) -> None:
    log = log_of(tmp_path, "KeyError: 'a'", "RuntimeError: Engine core initialization failed. See root cause")
    assert diagnose(log, 0, "it ended").what == "it ended: KeyError: 'a'"


def test_a_silent_log_or_none(tmp_path: Path) -> None:
    log = log_of(tmp_path, "INFO fine", "INFO fine too")
    found = diagnose(log, 0, "the server hung")
    assert isinstance(found, SmokeError)
    assert found.what == "the server hung"
    assert found.details == ("INFO fine", "INFO fine too")
    assert diagnose(tmp_path / "none", 0, "the server hung").details == ()


def test_details_are_the_end_of_a_long_log(tmp_path: Path) -> None:
    log = log_of(tmp_path, *(f"line {number}" for number in range(500)))
    assert diagnose(log, 0, "x").details == tuple(f"line {number}" for number in range(450, 500))
