"""The delays that the upstream asked for, per credential."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.limits.holds import Holds


class ThrottleGate:
    """Holds back all loops of a credential after the upstream throttled one of them.

    The loops also follow `holds`, which other gateways and submissions may begin.
    """

    def __init__(self, clock: Clock, holds: Holds) -> None:
        self._clock = clock
        self._holds = holds
        self._until: dict[bytes, float] = {}

    def closed_until(self, credential: bytes) -> float:
        """Return when the loops of a credential may poll again (seconds of the clock); usually in the past."""
        return max(self._until.get(credential, 0.0), self._holds.until(credential))

    def close(self, credential: bytes, until: float, asked: float | None = None) -> None:
        """Hold back the loops of a credential at least until that moment (seconds of the clock).

        `asked` is the wait that the upstream asked for. It holds submissions and other gateways too.
        """
        now = self._clock.monotonic()
        # Delays outlive the loop that was throttled, so expired ones are removed here.
        self._until = {each: moment for each, moment in self._until.items() if moment > now}
        self._until[credential] = max(until, self._until.get(credential, 0.0))
        if asked:
            self._holds.begin(credential, asked)
