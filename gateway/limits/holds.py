"""The waits that the upstream asked for, per credential."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock

# A longer `Retry-After` counts as this, so that one response cannot stop a credential for a day.
MAX_HOLD_SECONDS = 300.0


def _keep_local(_credential: bytes, _seconds: float) -> None:
    """Tell no one."""


class Holds:
    """Credentials that may neither poll nor submit for a while, because of a 429 with `Retry-After`.

    Attributes:
        share: Tells other gateways about each hold that this one begins. It must be quick, and must not raise.
    """

    def __init__(self, clock: Clock) -> None:
        self.share: Callable[[bytes, float], None] = _keep_local
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def until(self, credential: bytes) -> float:
        """Return when a credential may continue (seconds of the clock); usually in the past."""
        return self._until.get(credential, 0.0)

    def remaining(self, credential: bytes) -> float:
        """Return the seconds for which a credential is still held."""
        return max(0.0, self.until(credential) - self._clock.monotonic())

    def begin(self, credential: bytes, seconds: float) -> None:
        """Hold a credential that the upstream asked to wait for `seconds`, here and on other gateways."""
        seconds = min(seconds, MAX_HOLD_SECONDS)
        if seconds > self.remaining(credential):
            self.follow({credential: seconds})
            self.share(credential, seconds)

    def follow(self, held: dict[bytes, float]) -> None:
        """Hold credentials at least for these seconds, because some gateway began to."""
        now = self._clock.monotonic()
        self._until = {each: moment for each, moment in self._until.items() if moment > now}
        for credential, seconds in held.items():
            until = now + min(seconds, MAX_HOLD_SECONDS)
            self._until[credential] = max(until, self.until(credential))
