"""What a recipe may not set: variables and options that run code, or that override what quantpipe sets.

A recipe is reviewed like code, and this is no sandbox: it keeps a reviewer from having to know every variable
of the dynamic linker and every option of vLLM. These tables are the one place for that; docs/refused.md is
made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Refused:
    """Names that are refused.

    Attributes:
        names: variables and keys of JSON (`*` stands for anything), options, or paths.
        reason: what they would do.
        instead: what to do; empty where there is nothing.
    """

    names: tuple[str, ...]
    reason: str
    instead: str = ""

    def message(self, name: str) -> str:
        """What is wrong with `name`, without its value: it may be a secret."""
        return f"{name} is refused: {self.reason}" + (f"; {self.instead}" if self.instead else "")


_OPERATOR = "the operator may set it: quantpipe passes it on"

VARIABLES = (
    Refused(
        ("LD_*", "DYLD_*", "GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH", "OPENSSL_*"),
        "it loads libraries into the server, or changes how they are loaded",
        _OPERATOR,
    ),
    Refused(
        ("PYTHON*", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"),
        "it decides which Python code runs",
        "PYTHONHASHSEED, PYTHONUNBUFFERED and PYTHONFAULTHANDLER are allowed",
    ),
    Refused(
        (
            *(
                "PATH",
                "SHELL",
                "IFS",
                "ENV",
                "BASH_*",
                "CC",
                "CXX",
                "CPP",
                "AR",
                "LD",
                "GIT_*",
                "PAGER",
                "EDITOR",
            ),
            *("CUDA_HOME", "CUDA_PATH", "TRITON_*", "BISHENG_*", "CCACHE_*", "CMAKE_*", "TORCHINDUCTOR_CXX"),
        ),
        "it decides which programs the server starts",
        _OPERATOR,
    ),
    Refused(
        (
            *("HOME", "XDG_*", "HF_HOME", "HF_MODULES_CACHE", "VLLM_CONFIG_ROOT", "VLLM_CACHE_ROOT"),
            *("VLLM_LOGGING_CONFIG_PATH", "TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR"),
        ),
        "it names a folder or a file that may hold code: configuration, modules, compiled kernels",
        _OPERATOR,
    ),
    Refused(
        (
            *("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH", "ASCEND_CUSTOM_OPP_PATH"),
            *("ASCEND_AICPU_PATH", "TOOLCHAIN_HOME", "ATB_HOME_PATH", "ASDOPS_HOME_PATH", "*_SO_PATH"),
            *("VLLM_RUST_FRONTEND_PATH", "VLLM_CUDA_COMPATIBILITY_PATH"),
        ),
        "it leads to the libraries and operators that the server loads",
        "CANN's set_env.sh sets it before quantpipe starts",
    ),
    Refused(
        ("VLLM_SERVER_DEV_MODE", "VLLM_ALLOW_INSECURE_SERIALIZATION", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
        "it lets whoever reaches the server run code in it, or change it",
    ),
    Refused(
        ("VLLM_MODEL_REDIRECT_PATH", "VLLM_TEST_FORCE_LOAD_FORMAT"),
        "the server would load other weights than the checkpoint's",
    ),
    Refused(
        (
            *("QUANTPIPE_*", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "VLLM_NO_USAGE_STATS"),
            *("DO_NOT_TRACK", "VLLM_DO_NOT_TRACK", "VLLM_USAGE_STATS_SERVER", "VLLM_CONFIGURE_LOGGING"),
        ),
        "quantpipe sets it: a smoke load uses no hub, reports no usage and reads the server's log",
    ),
)
ALLOWED_VARIABLES = ("PYTHONHASHSEED", "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER")

OPTIONS = (
    Refused(
        (
            *(
                "--served-model-name",
                "--tensor-parallel-size",
                "--data-parallel-size",
                "--enable-expert-parallel",
            ),
            *("--max-model-len", "--max-num-seqs", "--max-num-batched-tokens", "--gpu-memory-utilization"),
            *("--dtype", "--seed", "--enforce-eager", "--async-scheduling", "--trust-remote-code"),
            *("--hf-overrides", "--compilation-config", "--additional-config"),
        ),
        "smoke.serve has a key of this name",
        "use that key, which the rules look at",
    ),
    Refused(
        ("--model", "--host", "--port", "--uds", "--root-path", "--quantization", "--config"),
        "quantpipe sets it: the server serves this checkpoint, on the loopback address",
    ),
    Refused(
        ("--tokenizer", "--hf-config-path", "--revision", "--code-revision", "--tokenizer-revision"),
        "the server would not serve what the checkpoint contains",
    ),
    Refused(
        (
            *("--middleware", "--tool-parser-plugin", "--reasoning-parser-plugin", "--io-processor-plugin"),
            *("--worker-cls", "--worker-extension-cls", "--scheduler-cls", "--logits-processors"),
            *("--model-class-overrides", "--log-config-file", "--tool-server"),
        ),
        "it runs code that is neither vLLM's nor in the checkpoint",
    ),
    Refused(
        ("--api-key", "--hf-token", "--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--ssl-cert-reqs"),
        "every user of the host sees command lines, and the smoke load asks the server without TLS",
        "set VLLM_API_KEY where the server is deployed",
    ),
    Refused(
        ("--data-parallel-address", "--master-addr", "--nnodes", "--node-rank", "--headless"),
        "it makes the server a part of others: a smoke load starts one, on this host",
    ),
    Refused(
        ("--allowed-local-media-path", "--allowed-media-domains"),
        "it lets whoever reaches the server read files of the host, or addresses in its network",
    ),
)

KEYS = (
    Refused(
        (
            *(
                "*module_path",
                "*_cls",
                "*_plugin",
                "*_processors",
                "inductor_passes",
                "auto_map",
                "middleware",
            ),
            *("method: custom_class", "backend: *.*"),
        ),
        "it names Python code to run",
    ),
    Refused(("cache_dir",), "compiled code is loaded from that folder"),
)
"""In the JSON of options, and in hf_overrides, compilation_config and additional_config, at any depth: a key,
or a key with its value."""

VALUES: Mapping[str, tuple[str, ...]] = {
    "--distributed-executor-backend": ("mp", "ray", "uni"),
    "--load-format": ("auto", "safetensors", "fastsafetensors", "runai_streamer"),
}
"""Options with these values only: others name a class to run, load pickled code, or invent the weights."""

WHOLE_FOLDERS = Refused(
    ("/", "/bin", "/etc", "/home", "/lib", "/lib64", "/opt", "/root", "/sbin", "/usr", "/usr/local", "/var"),
    "it is a whole part of the host",
    "mount the file or folder that is needed",
)
"""Sources of a container's mounts that are refused themselves, not what is in them."""

TREES = (
    Refused(
        (
            "/run",
            "/var/run",
            "/var/lib/docker",
            "/var/lib/containers",
            "/var/lib/containerd",
            "/var/lib/kubelet",
        ),
        "sockets and state of the container engine are there: who has them is root on the host",
    ),
    Refused(
        ("/dev", "/proc", "/sys", "/boot"),
        "devices and the kernel are there",
        "smoke.container.devices and shm_size map what a server needs",
    ),
)
"""Sources of mounts that are refused with all that is in them, and with all that contains them."""

PARTS = Refused(
    (".ssh", ".gnupg", ".aws", ".kube", ".docker", "*.sock"), "keys, credentials or a socket are there"
)
"""Names that no part of a mount's source may have."""

MOUNT_OPTIONS = ("ro", "rw", "z", "Z")
"""What a mount may have for options."""

TABLES: Mapping[str, tuple[Refused, ...]] = {
    "Variables of `smoke.serve.environment`": VARIABLES,
    "Options of `smoke.serve.extra_args`": OPTIONS,
    "Keys in the JSON of options, `hf_overrides`, `compilation_config` and `additional_config`": KEYS,
    "Sources of `smoke.container.mounts`: these folders, but what is in them may be mounted": (
        WHOLE_FOLDERS,
    ),
    "Sources of `smoke.container.mounts`: with all that is in them, and all that contains them": TREES,
    "Sources of `smoke.container.mounts`: with a part of this name": (PARTS,),
}
"""All tables by what they are for, for the documentation."""
