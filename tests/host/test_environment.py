"""What children get of the caller's environment."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from quantpipe.host.environment import CONTAINER_CLIENT, PASSED, for_child

SECRETS = {
    "HF_TOKEN": "hf_x",
    "HUGGING_FACE_HUB_TOKEN": "x",
    "MODELSCOPE_API_TOKEN": "x",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "OPENAI_API_KEY": "x",
    "VLLM_API_KEY": "x",
    "GITHUB_TOKEN": "x",
    "HTTPS_PROXY": "http://me:password@proxy:3128",
    "http_proxy": "http://proxy:3128",
    "HF_ENDPOINT": "https://me:password@mirror",
    "RAY_REDIS_PASSWORD": "x",
    "VLLM_SOMETHING_URL": "http://me:password@host/",  # a family that passes, a value that does not
    "PGPASSWORD": "x",
    "KUBECONFIG": "/x",
    "QUANTPIPE_STORE": "/x",
}

# What CANN's and ATB's set_env.sh, the images and the profiles of vllm-ascend's documentation set.
ASCEND = (
    *("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH", "ASCEND_AICPU_PATH", "TOOLCHAIN_HOME"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "ATB_HOME_PATH", "ATB_STREAM_SYNC_EVERY_KERNEL_ENABLE"),
    *("ASDOPS_LOG_LEVEL", "LCCL_DETERMINISTIC", "HCCL_BUFFSIZE", "HCCL_IF_IP", "GLOO_SOCKET_IFNAME"),
    *("TP_SOCKET_IFNAME", "ASCEND_RT_VISIBLE_DEVICES", "PYTORCH_NPU_ALLOC_CONF", "TASK_QUEUE_ENABLE"),
    *("CPU_AFFINITY_CONF", "INF_NAN_MODE_ENABLE", "ACL_OP_INIT_MODE", "CLOSE_MATMUL_K_SHIFT", "SOC_VERSION"),
    *("VLLM_USE_MODELSCOPE", "VLLM_ASCEND_ENABLE_NZ", "VLLM_SHARED_EXPERTS_STREAM_TOKEN_THRESHOLD"),
    *("OMP_NUM_THREADS", "OMP_PROC_BIND", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "TORCH_LOGS"),
    *("TORCHDYNAMO_DISABLE", "TMPDIR", "HOME", "LANG", "LC_ALL", "TZ", "XDG_CACHE_HOME", "PYTHONHASHSEED"),
    *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
    *("TOKENIZERS_PARALLELISM", "MODELSCOPE_CACHE", "CC"),
)


def test_no_secret_and_no_proxy_reaches_a_child() -> None:
    assert for_child(base=SECRETS) == {}
    assert for_child(base=SECRETS, container=True) == {}


def test_what_an_npu_host_needs_passes() -> None:
    base = dict.fromkeys(ASCEND, "1")
    assert for_child(base=base) == base


def test_the_user_passes_more_by_name_or_by_beginning() -> None:
    base = {"MY_LIB": "1", "SITE_A": "2", "SITE_KEY": "3", "HF_TOKEN": "x", "OTHER": "4"}
    assert for_child(["MY_LIB", "SITE_*"], base) == {"MY_LIB": "1", "SITE_A": "2", "SITE_KEY": "3"}
    assert for_child(["*"], base) == base


def test_a_container_s_client_finds_its_daemon() -> None:
    base = {"DOCKER_HOST": "unix:///x", "CONTAINERS_CONF": "/x", "PATH": "/bin"}
    assert for_child(base=base, container=True) == base
    assert for_child(base=base) == {"PATH": "/bin"}


def test_another_interpreter_gets_cann_s_path_and_nothing_of_ours() -> None:
    own = sysconfig.get_path("purelib")
    base = {
        "PYTHONPATH": os.pathsep.join(["/usr/local/Ascend/tbe", own, "", "/opt/x"]),
        "PYTHONHOME": "/x",
        "VIRTUAL_ENV": sys.prefix,
        "LD_LIBRARY_PATH": "/usr/local/Ascend/lib64",
    }
    assert for_child(base=base) == {
        "PYTHONPATH": os.pathsep.join(["/usr/local/Ascend/tbe", "/opt/x"]),
        "LD_LIBRARY_PATH": "/usr/local/Ascend/lib64",
    }
    assert for_child(["PYTHONHOME"], {"PYTHONPATH": own, "PYTHONHOME": "/x"}) == {}
    assert for_child(base={}) == {}


def test_cann_below_the_prefix_of_a_system_s_python_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """README's `pip install .` with a Python in /usr/local: CANN is in /usr/local/Ascend."""
    monkeypatch.setattr(sys, "prefix", "/usr/local")
    monkeypatch.setattr(sys, "base_prefix", "/usr/local")
    base = {"PYTHONPATH": "/usr/local/Ascend/ascend-toolkit/latest/python/site-packages"}
    assert for_child(base=base) == base


def test_each_name_is_listed_once() -> None:
    names = [name for passed in (*PASSED, CONTAINER_CLIENT) for name in passed.names]
    starts = [name[:-1] for name in names if name.endswith("*")]
    assert not [(n, s) for n in names for s in starts if n.startswith(s) and n != f"{s}*"]
    assert len(names) == len(set(names))
    assert all(Path(name).name == name for name in names)
