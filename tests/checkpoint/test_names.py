from __future__ import annotations

import ast
from pathlib import Path

import pytest

import quantpipe
from quantpipe.checkpoint import names
from quantpipe.checkpoint.names import shard_name

PACKAGE = Path(quantpipe.__file__).parent
NAMES = {value for key, value in vars(names).items() if key.isupper()}
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_a_file_name_of_the_format_is_written_once(module: str) -> None:
    """All modules import it: two constants of one name drift apart."""
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    written = {str(text) for text in texts if text in NAMES or str(text).endswith(names.INDEX_SUFFIX)}
    assert not written or module == "checkpoint/names.py", f"{module} writes {sorted(written)}"


def test_shards_are_numbered_from_one() -> None:
    assert shard_name(1, 3) == "model-00001-of-00003.safetensors"
    assert shard_name(12, 120) == "model-00012-of-00120.safetensors"


def test_an_index_is_no_shard() -> None:
    assert not names.INDEX.endswith(names.SHARD_SUFFIX)
    assert names.INDEX.endswith(names.INDEX_SUFFIX)
