"""Stage 3: read a checkpoint and know, without an NPU, whether vLLM-Ascend serves it rightly.

The format is that of msmodelslim 26.1.0's output and vllm-ascend's loader; docs/checks.md lists the checks.
"""
