"""What every fuzz target shares: how many inputs, where they come from, and how a call has to end.

The property is the same everywhere: a value, or an error of quantpipe's tree with a text, within bounds of
time and memory. `make test` tries a few inputs for each target, the same ones every time; `make fuzz` tries
more, at random (FUZZ_INPUTS: inputs for each target), and says how many ran.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from quantpipe.errors import QuantpipeError

T = TypeVar("T")
Test = Callable[..., None]

LONG = int(os.environ.get("FUZZ_INPUTS", "0"))
"""Inputs for each target in a long run; 0 in `make test`."""

QUICK = 40
MAX_SECONDS = 10.0
"""For one input, on a busy machine; a hang or a quadratic loop takes longer."""

MAX_MEMORY_BYTES = 700 << 20
"""More than all inputs of one target may add to the peak of this process."""

ran: Counter[str] = Counter()
"""Inputs by target."""


def fuzz(*strategies: st.SearchStrategy[Any], share: float = 1.0) -> Callable[[Test], Test]:
    """Hypothesis' `given` for a target.

    Args:
        share: of the inputs, for a target whose inputs are slow.
    """

    def decorate(test: Test) -> Test:
        limits = settings(
            max_examples=max(5, int(share * (LONG or QUICK))),
            derandomize=not LONG,
            database=None,
            deadline=None,
            print_blob=True,
            phases=(Phase.generate, Phase.shrink) if LONG else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )

        @functools.wraps(test)
        def counted(*args: Any, **kwargs: Any) -> None:
            ran[f"{Path(test.__code__.co_filename).stem}::{test.__name__}"] += 1
            test(*args, **kwargs)

        decorated: Test = limits(given(*strategies)(counted))
        return decorated

    return decorate


def ends(call: Callable[[], T], *, also: tuple[type[Exception], ...] = ()) -> T | None:
    """The value of a call, None after an error; anything but the errors that are allowed fails the test.

    Args:
        also: errors beside those of quantpipe's tree, where the caller turns them into one.
    """
    began = time.monotonic()
    try:
        return call()
    except QuantpipeError as error:
        assert error.what.strip() and error.exit_code in (1, 2, 3, 5, 75)
        json.dumps(error.to_json()).encode()
        return None
    except also as error:
        assert str(error).strip()
        return None
    finally:
        assert time.monotonic() - began < MAX_SECONDS


# -- inputs -------------------------------------------------------------------------------------------

_RAW = {"@huge@": "1e999", "@digits@": "9" * 40, "@deep@": '{"a key":' * 90 + "1" + "}" * 90, "@nan@": "NaN"}
"""What JSON texts may have and Python's values not: written in place of these strings."""

HOSTILE: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        [
            *_RAW,
            None,
            True,
            -1,
            0,
            1 << 62,
            -0.5,
            1e308,
            "",
            "a",
            [],
            {},
            [[]],
            [1],
            {"a": 1},
            "../../etc/passwd",
        ]
    ),
    st.sampled_from(["\ud800", "\0", "\x1b]0;x\x07", "/", ".", "a/b.json", "x" * 3000, "\u202e", "é" * 120]),
    st.integers(),
    st.text(max_size=8),
    st.lists(st.integers(-1, 3), max_size=3),
).map(copy.deepcopy)
"""Values where something else was expected."""

_TOKENS = (
    b"1e999",
    b"-1",
    b"null",
    b"[]",
    b"{",
    b"}",
    b"[",
    b'"',
    b",",
    b":",
    b"\\ud800",
    b"\0",
    b"\xff",
    b"\n",
)


@st.composite
def altered(draw: st.DrawFn, seed: Any) -> Any:
    """A JSON value in which one to three places are replaced, removed or added."""
    value = copy.deepcopy(seed)
    for _ in range(draw(st.integers(1, 3))):
        value = _alter(draw, value)
    return value


def _alter(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 9)) == 0:
        return draw(HOSTILE)
    key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
    action = draw(st.sampled_from(["into", "into", "into", "remove", "add"]))
    if action == "into":
        value[key] = _alter(draw, value[key])
    elif action == "remove":
        del value[key]
    elif isinstance(value, dict):
        value[draw(st.text(max_size=5))] = draw(HOSTILE)
    else:
        value.append(draw(HOSTILE))
    return value


def written(value: Any) -> bytes:
    """A value of `altered` as JSON text."""
    text = json.dumps(value)
    for name, raw in _RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode()


@st.composite
def edited(draw: st.DrawFn, seeds: Sequence[bytes], tokens: Sequence[bytes] = _TOKENS) -> bytes:
    """A text in which one to four pieces are replaced, removed or doubled."""
    data = draw(st.sampled_from(list(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 8, 64, 1024])))
        piece = draw(
            st.one_of(st.sampled_from(list(tokens)), st.binary(max_size=6), st.just(2 * data[start:end]))
        )
        data = data[:start] + piece + data[end:]
    return data


def json_texts(*seeds: Any) -> st.SearchStrategy[bytes]:
    """Texts near the JSON of these values: most still are JSON, and say something else."""
    values = st.one_of(*(altered(seed) for seed in seeds)).map(written)
    return st.one_of(
        values, values, edited([json.dumps(seed).encode() for seed in seeds]), st.binary(max_size=40)
    )
