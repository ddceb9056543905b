"""The gateway in a time that runs faster: an hour of polls takes less than a minute.

    python -m benchmarks.servers.accelerated FACTOR

All times of the gateway pass faster by FACTOR, also those of its connections: they come from its event loop.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from typing import TYPE_CHECKING

from gateway.config import load
from gateway.server.process import serve

if TYPE_CHECKING:
    from selectors import SelectorKey


class _Selector(selectors.DefaultSelector):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        events: list[tuple[SelectorKey, int]] = super().select(timeout and timeout / self._factor)
        return events


class AcceleratedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time runs faster by `factor`."""

    def __init__(self, factor: float) -> None:
        self._factor = factor
        super().__init__(_Selector(factor))

    def time(self) -> float:
        """Return the time in seconds."""
        return super().time() * self._factor


with asyncio.Runner(loop_factory=lambda: AcceleratedLoop(float(sys.argv[1]))) as runner:
    runner.run(serve(load()))
