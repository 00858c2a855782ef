"""Progress that moves: what happens within a layer, how much of it is done, and how long the rest takes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

SECONDS_APART = 0.5
"""Messages about the same step are this far apart at least."""

_RECENT = 8
"""Layers that the estimate is made of: the last ones, since a host may get busier."""


class Steps:
    """Reports the steps of a unit.

    Args:
        send: gets the fields of the message `step` (protocol.py).
        clock: seconds.
    """

    def __init__(self, send: Callable[..., None], clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock = send, clock
        self._name, self._done, self._of, self._sent = "", 0, 0, 0.0

    def begin(self, name: str, of: int = 0) -> None:
        """The next step of the unit.

        Args:
            name: one of STEPS in protocol.py.
            of: how many linears or prompts it has; 0 where nothing is counted.
        """
        self._name, self._done, self._of = name, 0, of
        self._report()

    def advance(self) -> None:
        """One more of them is done."""
        self._done += 1
        if self._done == self._of or self._clock() - self._sent >= SECONDS_APART:
            self._report()

    def _report(self) -> None:
        self._sent = self._clock()
        self._send(name=self._name, done=self._done, of=self._of)


class Estimate:
    """How long the rest of the layers takes, from the last ones of this run.

    Args:
        layers: of the model.
        clock: seconds.
    """

    def __init__(self, layers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._layers, self._clock = layers, clock
        self._began: deque[float] = deque(maxlen=_RECENT + 1)

    def layer(self, index: int) -> dict[str, Any]:
        """Layer `index`, counted from 1, begins: `eta` in seconds, once one layer of this run is done."""
        self._began.append(self._clock())
        if len(self._began) < 2:
            return {}
        each = (self._began[-1] - self._began[0]) / (len(self._began) - 1)
        return {"eta": round(each * (self._layers - index + 1), 1)}
