"""What a model directory is: its files, headers, indexes, description and layout.

This file imports nothing: the quantize worker and the vLLM plugin use these modules without the
core's dependencies.
"""
