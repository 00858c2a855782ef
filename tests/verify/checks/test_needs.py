from __future__ import annotations

from checkpoint.configs import CONFIG

from quantpipe.checkpoint.layout import GIB, Layout
from quantpipe.verify.checks.needs import (
    DEEP,
    DIRECTORY,
    FILES,
    LAYOUT,
    MANIFEST,
    MEMORY,
    MODEL,
    NEEDS,
    NUMBERS,
    SOURCE,
    missing,
)
from quantpipe.verify.examination import Examination
from quantpipe.verify.fidelity.result import Fidelity
from quantpipe.verify.values import Values
from verify.shapes import from_shapes

EVERY = (*NEEDS, NUMBERS)
MODEL_OF_SHAPES = from_shapes(CONFIG)


def examined(**found: object) -> Examination:
    return Examination(MODEL_OF_SHAPES.checkpoint, "0.23.0", model=MODEL_OF_SHAPES, **found)  # type: ignore[arg-type]


def there(examination: Examination) -> set[str]:
    return {need.name for need in EVERY if need.of(examination) is not None}


def test_a_plain_examination_has_the_model_only() -> None:
    assert there(examined()) == {"directory", "files", "model"}


def test_each_part_fills_its_need() -> None:
    plain = there(examined())
    assert there(examined(values=Values())) - plain == {DEEP.name}
    assert there(examined(fidelity=Fidelity("none"))) - plain == {SOURCE.name}
    assert there(examined(mismatches=())) - plain == {MANIFEST.name}
    assert there(examined(layout=Layout())) - plain == {LAYOUT.name}
    assert there(examined(layout=Layout(device_memory=GIB))) - plain == {LAYOUT.name, MEMORY.name}


def test_no_memory_where_the_sizes_do_not_divide() -> None:
    assert MEMORY.of(examined(layout=Layout(tp=3, device_memory=GIB))) is None


def test_without_a_model_nothing_else_counts() -> None:
    full = {"layout": Layout(device_memory=GIB), "values": Values(), "fidelity": Fidelity("none")}
    bare = Examination(MODEL_OF_SHAPES.checkpoint, "0.23.0", **full)  # type: ignore[arg-type]
    assert there(bare) == {DIRECTORY.name, FILES.name}
    assert missing(DEEP, bare) == MODEL.text
    assert missing(DEEP, examined()) == DEEP.text
