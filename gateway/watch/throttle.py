"""How long the upstream asked each credential to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.clock import Clock


class ThrottleGate:
    """Until when the loops of each credential are held back, for the upstream throttled one of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def closed_until(self, credential: bytes) -> float:
        """The moment of the clock (seconds) at which the loops of a credential may poll again; in the past for most."""
        return self._until.get(credential, 0.0)

    def close(self, credential: bytes, until: float) -> None:
        """Holds the loops of a credential back until that moment at least."""
        now = self._clock.monotonic()
        # A hold outlives the loop that met it, for the others; what is over is forgotten here.
        self._until = {each: moment for each, moment in self._until.items() if moment > now}
        self._until[credential] = max(until, self.closed_until(credential))
