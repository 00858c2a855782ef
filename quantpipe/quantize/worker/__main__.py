"""Entry point: `INTERPRETER .../quantpipe/quantize/worker/__main__.py JOB_FILE PIPE_DESCRIPTOR`.

Makes the package `quantpipe` importable from its own source, and nothing else of the environment that
it is installed in: the interpreter's own torch, transformers and huggingface_hub must be used.
"""

import importlib.util
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]


def _make_importable() -> None:
    sys.path[:] = [
        entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent.resolve()
    ]
    spec = importlib.util.spec_from_file_location(
        "quantpipe", PACKAGE / "__init__.py", submodule_search_locations=[str(PACKAGE)]
    )
    if spec is None or spec.loader is None:
        raise SystemExit(f"quantpipe's source is not at {PACKAGE}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["quantpipe"] = module
    spec.loader.exec_module(module)


# Not only under __main__: processes that msmodelslim spawns for several devices import this file too.
_make_importable()

if __name__ == "__main__":
    from quantpipe.quantize.worker.main import main

    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
