"""Who may come in now; asked before anything else of a call."""

from __future__ import annotations

import random
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.clock import Signal
from gateway.errors import Draining, LimitReached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.clock import Clock

# Callers of a limit come back after a moment, callers of a drain spread out over the other replicas.
LIMIT_RETRY_SECONDS = 1.0
DRAIN_RETRY_SECONDS = (1.0, 5.0)


def draining() -> Draining:
    """The error of a call that meets a drain, with a wait of its own."""
    return Draining(retry_after=random.uniform(*DRAIN_RETRY_SECONDS))  # noqa: S311 - jitter


@dataclass
class Places:
    """How many of a kind may be inside, and how many are."""

    of: str
    limit: int
    taken: int = 0


class Admission:
    """Counts calls and watches (`RunJob` counts as one) against their limits, and knows whether the process drains."""

    def __init__(self, clock: Clock, *, max_calls: int, max_watches: int) -> None:
        self._clock = clock
        self._left = Signal(clock)
        self._calls = Places("calls", max_calls)
        self._watches = Places("watches", max_watches)
        self.draining = False

    @property
    def inside(self) -> int:
        """How many calls and watches are inside now."""
        return self._calls.taken + self._watches.taken

    @contextmanager
    def enter(self, *, watch: bool) -> Iterator[None]:
        """Holds a place until the context is left. Raises `Draining` or `LimitReached` where there is none."""
        if self.draining:
            raise draining()
        places = self._watches if watch else self._calls
        if places.taken >= places.limit:
            raise LimitReached(
                f"the gateway serves {places.limit} {places.of} at once and has no place now",
                retry_after=LIMIT_RETRY_SECONDS,
            )
        places.taken += 1
        try:
            yield
        finally:
            places.taken -= 1
            self._left.set()

    async def idle(self, until: float) -> bool:
        """Whether nobody is inside: waits for it until `until` (seconds of the clock)."""
        while self.inside and self._clock.monotonic() < until:
            await self._left.wait(until)
        return not self.inside
