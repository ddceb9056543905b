"""The time that a claim still has, and its renewal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.errors import StateUnavailable

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.submit.records import Claim
    from gateway.submit.store import IdempotencyStore

# The claim is renewed after this part of its time, and tried again after half of the rest if that fails.
RENEW_AFTER = 0.5


class Lease:
    """A claim that this process holds for `seconds` from `began`, as long as it renews it.

    A claim covers the longest submission, so a renewal is rare: only pauses of the limits of time need one.
    """

    def __init__(self, clock: Clock, store: IdempotencyStore, claim: Claim, began: float, seconds: float) -> None:
        self._clock = clock
        self._store = store
        self._claim = claim
        self._seconds = seconds
        self._renewal: asyncio.Task[None] | None = None
        self.until = began + seconds
        self._schedule()

    def check(self) -> None:
        """Make sure that the claim still holds before something is sent.

        Raises:
            StateUnavailable: The claim is over. Other gateways may have reported an unknown outcome, so that a person
                may have sent the job under another id.
        """
        if self._clock.monotonic() >= self.until:
            raise StateUnavailable("the claim of the request_id ended before the job was sent; nothing was sent")

    def end(self) -> None:
        """Stop to renew the claim."""
        self._timer.cancel()
        if self._renewal is not None:
            self._renewal.cancel()

    def _schedule(self) -> None:
        now = self._clock.monotonic()
        self._timer = self._clock.call_at(now + (self.until - now) * RENEW_AFTER, self._renew)

    def _renew(self) -> None:
        self._renewal = asyncio.get_running_loop().create_task(self._renew_once())

    async def _renew_once(self) -> None:
        began = self._clock.monotonic()
        try:
            if not await self._store.renew(self._claim, self._seconds):
                # The claim has ended, or the store lost it and another one may be in its place.
                self.until = min(self.until, began)
                return
            self.until = began + self._seconds
        except StateUnavailable:
            if began >= self.until:
                return
        self._schedule()
