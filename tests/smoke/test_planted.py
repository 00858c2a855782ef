"""Planted failures of every kind: each ends in its time, with its cause, and with nothing left running.

The excerpts follow the shape of real logs: lines of success before, a traceback, the same error again from
the processes that die of it.
"""

from __future__ import annotations

import io
import re
import secrets
import sys
import time
from pathlib import Path

import pytest
from helpers.processes import processes_of

from quantpipe.console import Console
from quantpipe.errors import PreflightError, QuantpipeError, SmokeError
from quantpipe.recipe.smoke import Timeouts
from quantpipe.smoke.causes import CAUSES
from quantpipe.smoke.server import choose_port, running
from quantpipe.smoke.server_command import ServerCommand

FAKE_SERVER = Path(__file__).with_name("fake_server.py")
CORE = "(EngineCore_DP0 pid=771)"

BEFORE = f"""\
INFO 07-28 19:00:01 [__init__.py:38] Available plugins for group vllm.platform_plugins:
INFO 07-28 19:00:01 [__init__.py:207] Platform plugin ascend is activated
(APIServer pid=700) INFO 07-28 19:00:09 [api_server.py:1896] vLLM API server version 0.21.0
(APIServer pid=700) WARNING 07-28 19:00:10 [arg_utils.py:900] driver plugin not found, trying the next
{CORE} INFO 07-28 19:00:31 [parallel_state.py:1208] rank 0 in world size 8, HCCL init method env://
"""
AFTER = f"""\
{CORE} ERROR 07-28 19:02:00 [core.py:708] EngineCore failed to start.
Traceback (most recent call last):
  File "/vllm-workspace/vllm/vllm/v1/engine/core.py", line 699, in run_engine_core
    engine_core = EngineCoreProc(*args, **kwargs)
{{error}}
(APIServer pid=700) Traceback (most recent call last):
(APIServer pid=700) RuntimeError: Engine core initialization failed. See root cause above.
[ERROR] 2026-07-28-19:02:04 (PID:700, Device:-1, RankID:-1) ERR99999 UNKNOWN applicaiton exception
"""

# By cause: what the log says between the two, in the process that met it first.
EXCERPTS: dict[str, str] = {
    "memory": f"{CORE} ERROR 07-28 19:01:59 [core.py:708] RuntimeError: NPU out of memory. Tried to allocate "
    "1.50 GiB (NPU 0; 61.27 GiB total capacity; 58.02 GiB already allocated; 0 bytes free)",
    "port": "OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): "
    "address already in use",
    "hccl": f"{CORE} ERROR 07-28 19:01:59 [core.py:708] RuntimeError: create:torch_npu/HCCLUtils.hpp:117 "
    "HCCL function error: hcclCommInitRootInfoConfig(numRanks, &rootInfo, rank), error code is 7",
    "driver": "ImportError: libascend_hal.so: cannot open shared object file: No such file or directory",
    "cann": "OSError: libascendcl.so: cannot open shared object file: No such file or directory",
    "versions": "ImportError: cannot import name 'FusedMoEParallelConfig' from 'vllm.model_executor.layers' "
    "(/vllm-workspace/vllm/vllm/model_executor/layers/__init__.py)",
    "no-vllm": "/opt/python/bin/python: Error while finding module specification for "
    "'vllm.entrypoints.openai.api_server' (ModuleNotFoundError: No module named 'vllm')",
    "no-ascend": "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
    "  Value error, Unknown quantization method: ascend. Must be one of ['awq', 'fp8', 'gptq'].",
    "device-taken": "ValueError: Free memory on device (3.2/61.27 GiB) on startup is less than desired GPU "
    "memory utilization (0.95, 58.2 GiB).",
    "disk-full": "OSError: [Errno 122] Disk quota exceeded: '/store/runs/x/smoke.log'",
    "unreadable": "PermissionError: [Errno 13] Permission denied: '/store/models/x/model-00001.safetensors'",
    "description": f"{CORE} ERROR 07-28 19:01:59 [core.py:708] ValueError: ModelSlim Quantization Config Not "
    "Found. Could not find quant_model_description.json at /store/models/x",
    "quantization-config": "KeyError: 'model.layers.0.self_attn.q_proj.weight'",
    "partial-group": "ValueError: Detected some but not all shards of model.layers.0.self_attn.qkv_proj are "
    "quantized. All shards of fused layers to have the same precision.",
    "unsupported-type": "NotImplementedError: Currently, vLLM Ascend doesn't support quant_type=W8A8 for "
    "layer_type=moe.",
    "unquantized-load": "KeyError: 'model.layers.3.mlp.gate_up_proj.deq_scale'",
    "description-key": "KeyError: 'lm_head.weight'",
    "strict-load": "quantpipe.vllm_ascend_cpu.errors.CheckpointLoadError: 2 tensors are missing (/x)\n"
    "  model.layers.0.mlp.experts.3.up_proj.weight: missing",
    "no-weights": "RuntimeError: Cannot find any model weights with `/store/models/x`",
    "broken-shard": "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
    "shapes": "AssertionError: Attempted to load weight (torch.Size([8192, 4096])) into parameter "
    "(torch.Size([9216, 4096]))",
    "length": "ValueError: User-specified max_model_len (131072) is greater than the derived max_model_len "
    "(max_position_embeddings=40960 or model_max_length=None in model's config.json).",
    "parallel": "ValueError: Total number of attention heads (64) must be divisible by tensor parallel size "
    "(6).",
    "eplb": "AssertionError: EPLB error: 129 physical experts over 8 ranks",
    "option": "api_server.py: error: unrecognized arguments: --async-schedulling",
    "container-daemon": "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the "
    "docker daemon running?",
    "container-image": "Unable to find image 'quay.io/ascend/vllm-ascend:v0.21.0rc1-a3' locally\n"
    "docker: Error response from daemon: Get https://quay.io/v2/: dial tcp: lookup quay.io: no such host.",
    "container-device": "docker: Error response from daemon: error gathering device information while adding "
    'custom device "/dev/davinci9": no such file or directory.',
}  # fmt: skip


def fails(tmp_path: Path, mode: str, *more: str, timeouts: Timeouts, within: float) -> QuantpipeError:
    run_id, port = f"test-{secrets.token_hex(6)}", choose_port(0)
    command = ServerCommand((sys.executable, str(FAKE_SERVER), str(port), mode, *more), {})
    began = time.monotonic()
    with (
        pytest.raises(QuantpipeError) as caught,
        running(
            command,
            port=port,
            log=tmp_path / "smoke.log",
            run_id=run_id,
            timeouts=timeouts,
            console=Console("quiet", stream=io.StringIO()),
        ),
    ):
        pytest.fail("it counts as ready")
    assert time.monotonic() - began < within
    assert processes_of(f"QUANTPIPE_RUN_ID={run_id}") == []
    assert choose_port(port) == port
    return caught.value


def test_every_cause_is_planted() -> None:
    assert EXCERPTS.keys() == {cause.id for cause in CAUSES}


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.id)
def test_a_server_that_dies_says_why(tmp_path: Path, cause) -> None:  # type: ignore[no-untyped-def]
    excerpt = EXCERPTS[cause.id]
    said = tmp_path / "said"
    said.write_text(BEFORE + excerpt + "\n" + AFTER.format(error=excerpt))
    failure = fails(tmp_path, "log", str(said), timeouts=Timeouts(stall=20, ready=20), within=10)
    assert type(failure) is (PreflightError if cause.host else SmokeError)
    assert failure.exit_code == (5 if cause.host else 4)
    assert f": {cause.what}" in failure.what
    assert failure.hint == cause.hint
    assert len(failure.details) <= 50
    assert any("Engine core initialization failed" in line for line in failure.details)


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("hangs", "hung while starting the server"),
        ("crawls", "no progress"),
        ("unhealthy", "no progress|hung"),
    ],
)
def test_a_server_that_is_never_ready(tmp_path: Path, mode: str, said: str) -> None:
    failure = fails(tmp_path, mode, timeouts=Timeouts(stall=1, ready=2), within=25)
    assert isinstance(failure, SmokeError)
    assert re.search(said, failure.what)


def test_the_kernel_s_own_kill_is_this_host_s_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter((3, 4, 4, 4))
    monkeypatch.setattr("quantpipe.smoke.server.out_of_memory_kills", lambda: next(counts))
    failure = fails(tmp_path, "killed", timeouts=Timeouts(stall=20, ready=20), within=10)
    assert isinstance(failure, PreflightError)
    assert "status 137" in failure.what and "out of memory" in failure.what
