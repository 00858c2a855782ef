"""vLLM plugin: `--quantization ascend` on the CPU platform, for rehearsals without an NPU.

vLLM finds `register` through the entry point `vllm.general_plugins` and calls it in every process
of a server (front end, engine core, each worker). With it, the real vLLM engine loads an
msmodelslim W8A8 checkpoint (V0 or V1 layout, Qwen3-MoE, dense Qwen3 or Qwen2) and computes with the
NPU's integer arithmetic, exactly and slowly. Run with `--enforce-eager`: it does not compile.

    description.py    quant_model_description.json: the type of each layer
    weight_files.py   which tensors vLLM will read
    ledger.py         the expected tensors, the loaded ones, and the differences
    values.py         what the loaded numbers have to satisfy
    linear.py moe.py norm.py    the layers
    config.py         vLLM's interface: which layer gets which method

The arithmetic is in quantpipe/checkpoint/arithmetic.py.

This package lives in the serving environment: it imports vllm, torch and the standard library, and
of quantpipe only modules with the same restriction: `quantpipe.errors` and `quantpipe.checkpoint`.
"""

from __future__ import annotations

import importlib.util
import logging

QUANTIZATION = "ascend"
_LOG = logging.getLogger("vllm.quantpipe")


def register() -> None:
    """Register the quantization "ascend", unless another provider takes precedence.

    Does nothing but log the reason when vllm_ascend or torch_npu is installed (there
    NPUPlatform registers "ascend"; a second registration would silently replace it), when the
    platform is not CPU, or when "ascend" or an RMSNorm replacement is already registered. Cheap,
    and safe to call again.
    """
    reason = _why_not()
    if reason:
        _LOG.info("quantpipe: CPU rehearsal of --quantization %s is disabled: %s", QUANTIZATION, reason)
        return
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS, get_quantization_config

    if QUANTIZATION in QUANTIZATION_METHODS:
        owner = get_quantization_config(QUANTIZATION)
        if not owner.__module__.startswith(__name__ + "."):
            _LOG.warning(
                "quantpipe: CPU rehearsal of --quantization %s is disabled: it is registered by %s",
                QUANTIZATION,
                owner.__module__,
            )
        return
    _register()


def _why_not() -> str | None:
    for package in ("vllm_ascend", "torch_npu"):
        if importlib.util.find_spec(package) is not None:
            return f"{package} is installed"
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return f"the platform is {current_platform.device_name}, not CPU"
    return None


def _register() -> None:
    from vllm.model_executor.custom_op import CustomOp, op_registry_oot
    from vllm.model_executor.layers.quantization import register_quantization_config

    from .config import AscendCpuConfig
    from .norm import BiasedRMSNorm

    if "RMSNorm" in op_registry_oot:
        _LOG.warning(
            "quantpipe: CPU rehearsal of --quantization %s is disabled: RMSNorm is replaced by %s",
            QUANTIZATION,
            op_registry_oot["RMSNorm"].__module__,
        )
        return
    register_quantization_config(QUANTIZATION)(AscendCpuConfig)
    CustomOp.register_oot(name="RMSNorm")(BiasedRMSNorm)
    _LOG.info("quantpipe: registered --quantization %s for rehearsals on the CPU", QUANTIZATION)
