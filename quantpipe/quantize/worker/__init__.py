"""The quantize worker: runs in the interpreter that has torch and msmodelslim, not in quantpipe's own.

Only the standard library, torch, transformers, msmodelslim and safetensors may be imported here. It
is driven by a job file and answers with JSON lines on a pipe (protocol.py).
"""
