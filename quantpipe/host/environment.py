"""The environment of quantpipe's children: what they need, and nothing that is a secret.

The quantize worker, the smoke server, its benchmark and a container's client run code of others (msmodelslim,
vLLM, a model's own). None of them needs a hub, a cloud or a proxy, so no token of those reaches them.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from quantpipe.redact import has_credentials, is_secret


@dataclass(frozen=True)
class Passed:
    """Variables that are passed on, and what for.

    Attributes:
        purpose: for the documentation.
        names: each whole, or with a `*` at its end that stands for the rest.
    """

    purpose: str
    names: tuple[str, ...]


PASSED = (
    Passed(
        "system: programs, language, time zone, temporary files, the user's folders",
        (
            *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TERM", "HOSTNAME", "NO_COLOR", "LANG", "LANGUAGE"),
            *("LC_*", "TZ", "TZDIR", "TMPDIR", "TMP", "TEMP", "XDG_*"),
        ),
    ),
    Passed(
        "libraries and Python; PYTHONPATH without quantpipe's own folders, since CANN's are there too",
        (
            *("LD_*", "DYLD_*", "GLIBC_TUNABLES", "MALLOC_*", "PYTHON*", "CPATH", "C_INCLUDE_PATH"),
            *("CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "MAX_JOBS"),
            *("CMAKE_*", "CCACHE_*"),
        ),
    ),
    Passed(
        "certificates",
        ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "OPENSSL_*"),
    ),
    Passed(
        "threads and arithmetic on the CPU",
        (
            *("OMP_*", "GOMP_*", "KMP_*", "MKL_*", "OPENBLAS_*", "GOTO_*", "BLIS_*", "NUMEXPR_*", "TBB_*"),
            *("DNNL_*", "ONEDNN_*", "ATEN_*"),
        ),
    ),
    Passed(
        "Ascend: CANN and ATB (set_env.sh), torch_npu, communication, msmodelslim",
        (
            *("ASCEND_*", "ASCENDC_*", "ATB_*", "ASDOPS_*", "ACL_*", "ACLNN_*", "HCCL_*", "P2P_HCCL_*"),
            *("LCCL_*", "LCAL_*", "NPU_*", "MINDIE_*", "MSMODELSLIM_*", "MSMONITOR_*", "MOONCAKE_*", "MC_*"),
            *("BISHENG_*", "TBE_*", "GE_*", "DUMP_GE_*", "DUMP_GRAPH_*", "TOOLCHAIN_HOME", "SOC_VERSION"),
            *("TASK_QUEUE_*", "COMBINED_ENABLE", "INF_NAN_MODE_*", "CPU_AFFINITY_CONF", "PER_STREAM_QUEUE"),
            *("STREAMS_PER_DEVICE", "MULTI_STREAM_MEMORY_REUSE", "OOM_SNAPSHOT_*", "CLOSE_MATMUL_K_SHIFT"),
            *("DISABLE_L2_CACHE", "ENABLE_ACLNN", "PROFILING_*", "PROF_CONFIG_PATH", "KINETO_*"),
            *("RANK_TABLE_FILE", "DYNAMIC_EPLB", "EXPERT_MAP_RECORD", "RESUME_MODE_ENABLE"),
        ),
    ),
    Passed(
        "torch, vLLM and what they use",
        (
            *("TORCH*", "PYTORCH_*", "VLLM_*", "TRITON_*", "CUDA_*", "CUBLAS_*", "CUDNN_*", "NVIDIA_*"),
            *("NCCL_*", "GLOO_*", "TP_*", "RAY_*", "MASTER_ADDR", "MASTER_PORT", "DO_NOT_TRACK"),
        ),
    ),
    Passed(
        "Hugging Face and ModelScope: folders and switches; no token, no address",
        (
            *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_*", "HF_DATASETS_*"),
            *("HF_MODULES_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_*", "TOKENIZERS_*", "SAFETENSORS_*"),
            *("ACCELERATE_*", "MODELSCOPE_CACHE"),
        ),
    ),
)
"""The allow list. Also in these families, a name or a value that looks like a secret is not passed on.

Sources: set_env.sh of CANN 9.0 and of ATB; torch_npu's and CANN's references of environment variables;
vllm/envs.py 0.21 to 0.27; the profiles of vllm-ascend's documentation.
"""

CONTAINER_CLIENT = Passed(
    "the client of a container engine only",
    (
        *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
        *("DOCKER_API_VERSION", "CONTAINER_HOST", "CONTAINER_CONNECTION", "CONTAINERS_*"),
        *("DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK"),
    ),
)

_OWN_PYTHON = ("PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""They would point another interpreter at quantpipe's own environment, whoever asks for them."""


def for_child(
    more: Iterable[str] = (), base: Mapping[str, str] = os.environ, *, container: bool = False
) -> dict[str, str]:
    """What a child gets of the caller's environment.

    Args:
        more: names that the user passes on as well (the setting `pass_environment`), secrets or not.
        base: the caller's environment.
        container: the child is the client of a container engine.
    """
    allowed = [name for passed in PASSED for name in passed.names]
    allowed += CONTAINER_CLIENT.names if container else ()
    named = tuple(more)
    environment = {
        name: value
        for name, value in base.items()
        if name not in _OWN_PYTHON
        and (_is_one_of(name, named) or (_is_one_of(name, allowed) and not _secret(name, value)))
    }
    kept = _without_own(environment.pop("PYTHONPATH", ""))
    return {**environment, "PYTHONPATH": kept} if kept else environment


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for pattern in patterns
    )


def _secret(name: str, value: str) -> bool:
    return is_secret(name) or has_credentials(value)


def _without_own(path: str) -> str:
    """A search path without the library folders of quantpipe's own interpreter.

    On Ascend hosts CANN's set_env.sh puts the operator compiler there, without which torch_npu cannot run.
    With a system's Python it lies below the same prefix (/usr/local): only a virtual environment's prefix
    counts as a whole.
    """
    paths = sysconfig.get_paths()
    own = {Path(paths[kind]) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    if sys.prefix != sys.base_prefix:
        own.add(Path(sys.prefix))
    kept = [
        entry
        for entry in path.split(os.pathsep)
        if entry and not any(Path(entry).is_relative_to(folder) for folder in own)
    ]
    return os.pathsep.join(kept)
