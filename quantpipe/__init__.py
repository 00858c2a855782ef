"""quantpipe: one recipe in, one verified, servable W8A8 checkpoint out.

This module stays free of imports beyond the standard library: it is also loaded inside the
quantization and serving environments, where the core's dependencies are absent.
"""

__version__ = "0.1.0"
