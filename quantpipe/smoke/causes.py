"""The known failures of a server: what its log says, the cause, the next step, and whether it is the host."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A known failure.

    Attributes:
        id: a short name, stable.
        pattern: what its log says.
        what: the cause in one line.
        hint: the next step.
        host: this host is the cause, not the checkpoint or the profile.
    """

    id: str
    pattern: re.Pattern[str]
    what: str
    hint: str
    host: bool = False


def _cause(id: str, pattern: str, what: str, hint: str, *, host: bool = False) -> Cause:
    return Cause(id, re.compile(pattern, re.IGNORECASE), what, hint, host)


_VERIFY = "`quantpipe verify` on the checkpoint names every such defect"

CONTAINER = (
    _cause(
        "container-daemon",
        r"Cannot connect to the Docker daemon|docker\.sock.*(permission denied|connect:)|"
        r"permission denied.*docker\.sock|Cannot connect to Podman",
        "the container engine does not answer",
        "start it, or let this user use it: `docker info` has to work",
        host=True,
    ),
    _cause(
        "container-image",
        r"pull access denied|manifest unknown|manifest for .* not found|initializing source docker://|"
        r"Error response from daemon: (Get|Head) |dial tcp: lookup",
        "the image is not on this host and cannot be pulled",
        "pull it first, on a host with network, or name another with smoke.container.image",
        host=True,
    ),
    _cause(
        "container-device",
        r"error gathering device information|stat /dev/davinci\d*|invalid mount config|"
        r"bind source path does not exist",
        "a device or a driver path is not on this host",
        "check smoke.hardware and smoke.container.devices, and that the driver is installed: `npu-smi info`",
        host=True,
    ),
)

HOST = (
    _cause(
        "port",
        r"address already in use|EADDRINUSE",
        "the port is in use",
        "choose another with --port, or 0 for a free one",
        host=True,
    ),
    _cause(
        "no-vllm",
        r"No module named '?vllm'?(?![\w.])",
        "vLLM is not installed in the serving environment",
        "run `make setup`, or let QUANTPIPE_SERVE_PYTHON name an interpreter that has vllm",
        host=True,
    ),
    _cause(
        "device-taken",
        r"Free memory on device.*is less than desired|NPU memory.*less than desired",
        "another process holds memory of the device",
        "`npu-smi info` shows which; end it, use other devices, or lower gpu_memory_utilization",
        host=True,
    ),
    _cause(
        "memory",
        r"out of memory|Cannot allocate memory|\bMemoryError|No available memory for the cache blocks|"
        r"larger than the available KV cache memory|less than requested memory for kv|oom-kill|EL0004|"
        r"ERR99999.*alloc|207001",
        "out of memory",
        "lower max_model_len, max_num_seqs or gpu_memory_utilization, or use more devices",
        host=True,
    ),
    _cause(
        "hccl",
        r"hcclCommInit|HCCL.*(init|fail|error|timeout|time out)|\bEI000[2-9]|\bEJ000\d",
        "the devices could not communicate (HCCL initialization)",
        "check the device network with hccn_tool, HCCL_IF_IP and the firewall between devices",
        host=True,
    ),
    _cause(
        "driver",
        r"libascend_hal\.so|drvErr|driver.*not (found|installed)|dcmi.*(fail|not)|"
        r"(rtGetDeviceCount|aclrtSetDevice|aclInit|rtSetDevice).*(fail|error)|can't get device",
        "the Ascend driver is missing or not visible in this environment",
        "`npu-smi info` has to work in this very environment; map the driver into the container",
        host=True,
    ),
    _cause(
        "cann",
        r"lib(ascendcl|hccl|opapi|runtime|acl_op_compiler)\.so.*cannot open|KeyError: 'ASCEND_HOME_PATH'|"
        r"No module named '?(acl|tbe|te)'?(?![\w.])",
        "CANN is not set up in this environment",
        "`source /usr/local/Ascend/ascend-toolkit/set_env.sh` before, or use launcher docker",
        host=True,
    ),
    _cause(
        "versions",
        r"cannot import name .* from '(vllm|vllm_ascend|torch_npu|transformers)|"
        r"No module named '(vllm|torch_npu|vllm_ascend)\.|undefined symbol|"
        r"module '(vllm|torch|torch_npu)[\w.]*' has no attribute|"
        r"vllm[-_]ascend.*(requires|incompatible|not compatible).*vllm|got an unexpected keyword argument",
        "incompatible versions",
        "vllm-ascend, vllm, torch_npu and CANN have to be one row of the table in docs/smoke.md; "
        "the image (launcher docker) has them so",
        host=True,
    ),
    _cause(
        "no-ascend",
        r"(Unknown quantization method|invalid choice|Input should be|Invalid quantization).*ascend",
        "this vLLM does not have `--quantization ascend`",
        "the serving environment lacks vllm-ascend, or on a CPU quantpipe's plugin: run `make setup`",
        host=True,
    ),
    _cause(
        "disk-full",
        r"\[Errno (28|122)\]|No space left on device|Disk quota exceeded",
        "the server could not write: no space or no quota is left",
        "free space where the message says: the store, TMPDIR or /dev/shm",
        host=True,
    ),
    _cause(
        "unreadable",
        r"PermissionError: \[Errno 13\]|PermissionDenied",
        "the server has no permission to read a file",
        "published files are readable by all: check the folders above them and the server's user",
        host=True,
    ),
)

CHECKPOINT = (
    _cause(
        "description",
        r"ModelSlim Quantization Config Not Found|quant_model_description\.json.*(not found|does not exist|"
        r"No such file|missing|it is not there)|no such file.*quant_model_description\.json",
        "the description is missing",
        "the checkpoint is incomplete: `quantpipe verify` lists what else is missing",
    ),
    _cause(
        "quantization-config",
        r"has a quantization_config|KeyError: 'model\.layers\.0\.self_attn\.q_proj\.weight'|"
        r"Quantization method .* does not match|"
        r"quantization method specified in the model config",
        "config.json has a quantization_config, so that the description is ignored",
        f"remove that key from config.json; {_VERIFY}",
    ),
    _cause(
        "partial-group",
        r"Detected some but not all shards of|Not all shards of .* are quantized with|"
        r"the parts that vLLM fuses have different types",
        "fused projections (q, k, v or gate, up) are not quantized alike",
        f"quantize them alike: all or none; {_VERIFY}",
    ),
    _cause(
        "unsupported-type",
        r"doesn't support quant_type|does not support quant_type",
        "this vllm-ascend cannot compute such a quantization type in such a layer",
        "use scheme w8a8_dynamic, or the vllm-ascend version named by verify.target",
    ),
    _cause(
        "unquantized-load",
        r"KeyError: '[\w.]*(deq_scale|quant_bias|input_scale|input_offset|weight_scale|weight_offset)'",
        "the layer was loaded as unquantized, or is not of the description's type",
        f"serve with `--quantization ascend`; {_VERIFY}",
    ),
    _cause(
        "description-key",
        r"KeyError: '[\w.]*(lm_head|embed_tokens|mtp|eh_proj|shared_head|mlp\.gate|experts|norm|_proj)"
        r"[\w.]*\.?weight'|KeyError: 'lm_head|\d+ of \d+ keys are missing",
        "the description lacks a tensor that the model has",
        _VERIFY,
    ),
    _cause(
        "no-weights",
        r"Cannot find any model weights|no \*\.safetensors to load",
        "no weights were found",
        "the directory may contain an index of another model: `quantpipe verify` names it",
    ),
    _cause(
        "broken-shard",
        r"Error while deserializing header|SafetensorError|InvalidHeader|MetadataIncompleteBuffer|"
        r"not a (whole )?safetensors file",
        "a shard is truncated or not a safetensors file",
        f"copy or generate it again; {_VERIFY}",
    ),
    _cause(
        "shapes",
        r"size mismatch|shape mismatch|Attempted to load weight \(|param_data\.shape == loaded_weight\.shape",
        "a tensor's shape differs from config.json",
        _VERIFY,
    ),
    _cause(
        "strict-load",
        r"CheckpointLoadError: ",  # and not the traceback's line that raises it; last: others say more
        "the checkpoint is not what `--quantization ascend` expects",
        _VERIFY,
    ),
)

PROFILE = (
    _cause(
        "length",
        r"max_model_len.*(is greater than|longer than) the derived|user-specified max_model_len",
        "max_model_len exceeds the model's length in config.json",
        "lower smoke.serve.max_model_len, or enable YaRN with hf_overrides.rope_parameters",
    ),
    _cause(
        "parallel",
        r"must be divisible by tensor parallel size|is not divisible by|"
        r"not divisible by the number of|world size .* is larger than the number of available",
        "the model cannot be divided by this parallel layout",
        "choose tensor_parallel_size so that it divides the attention heads, and the KV heads or is divided",
    ),
    _cause(
        "eplb",
        r"redundan\w* expert|num_redundant_experts|EPLB.*(divisible|assert|error)",
        "experts and redundant experts are not divisible by the number of ranks",
        "(experts + redundant experts) has to be a multiple of tensor x data parallel size",
    ),
    _cause(
        "option",
        r"unrecognized arguments|error: argument --",
        "this vLLM does not have an option of the serve profile",
        "correct smoke.serve (extra_args?), or use the vLLM version that the profile was written for",
    ),
)

CAUSES: tuple[Cause, ...] = (*CONTAINER, *HOST, *CHECKPOINT, *PROFILE)
"""In the order in which they are tried on one line."""

OUT_OF_MEMORY = next(cause for cause in CAUSES if cause.id == "memory")
