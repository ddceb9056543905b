"""Rate limits per owner: token buckets that slow down after a throttled request."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import OrderedDict
from typing import TYPE_CHECKING

from gateway.clock import sleep_until
from gateway.errors import LimitReached

if TYPE_CHECKING:
    from gateway.clock import Clock

# Random, so that clients that were rejected together do not retry in lockstep.
RETRY_SECONDS = (1.0, 3.0)
# Additive increase: this is the time from no rate at all to the highest one.
RECOVERY_SECONDS = 600.0
# The increase per second is at most this, because the highest rate may be far above the limit of the upstream.
FASTEST_RECOVERY = 2.0
# Multiplicative decrease: to this part of the rate that was recently used, but not below this part of the highest rate
# or one per second, whichever is less.
SLOWED_FRACTION = 0.5
LEAST_FRACTION = 1 / 50
# `slow_down` has an effect only once in this time, because requests may have been sent before the rate went down.
SLOW_DOWN_COOLDOWN_SECONDS = 1.0
# The rate that is used is averaged over this time.
AVERAGE_SECONDS = 5.0
# A call need not wait for its turn if its owner took no token for this long, because such calls cannot block others.
CALM_SECONDS = 0.0005
# The error that is allowed for a whole token, because sums of fractions are not exact.
EPSILON = 1e-6


def limit_reached(message: str, wait: float = 0.0) -> LimitReached:
    """Return the error of a rejected client, which may retry after `wait` and a random 1 to 3 seconds."""
    return LimitReached(message, retry_after=wait + random.uniform(*RETRY_SECONDS))  # noqa: S311 - jitter


class _TokenBucket:
    """The tokens of one owner, at most those of one second."""

    __slots__ = ("_at", "_max_rate", "_rate", "_slowed_at", "_tokens", "_used", "turn", "waiting")

    def __init__(self, max_rate: float, now: float) -> None:
        # The calls that wait for their turn, one of which holds it.
        self.waiting = 0
        self.turn = asyncio.Lock()
        self._max_rate = self._rate = max_rate
        self._tokens = max(1.0, max_rate)
        self._used = 0.0
        self._at = now
        self._slowed_at = -math.inf

    def _advance(self, now: float) -> None:
        passed, self._at = now - self._at, now
        growth = min(self._max_rate / RECOVERY_SECONDS, FASTEST_RECOVERY)
        self._rate = min(self._max_rate, self._rate + passed * growth)
        self._tokens = min(max(1.0, self._rate), self._tokens + passed * self._rate)
        self._used *= math.exp(-passed / AVERAGE_SECONDS)

    def try_acquire(self, now: float) -> float:
        self._advance(now)
        if self._tokens < 1 - EPSILON:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        self._used += 1
        return 0.0

    def try_acquire_without_turn(self, now: float) -> bool:
        return not self.waiting and now - self._at >= CALM_SECONDS and not self.try_acquire(now)

    def slow_down(self, now: float) -> None:
        self._advance(now)
        if now - self._slowed_at < SLOW_DOWN_COOLDOWN_SECONDS:
            return
        self._slowed_at = now
        used = min(self._rate, self._used / AVERAGE_SECONDS)
        self._rate = max(min(1.0, self._max_rate * LEAST_FRACTION), used * SLOWED_FRACTION)
        self._tokens = min(self._tokens, self._rate)

    def is_full(self, now: float) -> bool:
        """Return whether the bucket is like a new one."""
        self._advance(now)
        return self._rate >= self._max_rate and self._tokens >= self._max_rate and not self.waiting


class RateLimiter:
    """A rate of `per_second` for each owner, with a burst of as many after a pause.

    `slow_down` halves the rate that an owner recently used. The rate then grows by a constant amount per second, back
    to the highest within 10 minutes. Idle owners take no memory.
    """

    def __init__(self, clock: Clock, per_second: float) -> None:
        self._clock = clock
        self._max_rate = per_second
        self._buckets: OrderedDict[bytes, _TokenBucket] = OrderedDict()

    def try_acquire(self, owner: bytes) -> float:
        """Take a token and return 0, or return the number of seconds until there is one."""
        return self._bucket(owner).try_acquire(self._clock.monotonic())

    async def acquire(self, owner: bytes) -> None:
        """Wait for a token and take it. The calls of one owner keep their order."""
        bucket = self._bucket(owner)
        if bucket.try_acquire_without_turn(self._clock.monotonic()):
            return
        bucket.waiting += 1
        try:
            async with bucket.turn:
                while (wait := bucket.try_acquire(self._clock.monotonic())) > 0:
                    await sleep_until(self._clock, self._clock.monotonic() + wait)
                # One per owner and iteration of the event loop, so that an owner with many calls does not block it.
                await asyncio.sleep(0)
        finally:
            bucket.waiting -= 1

    def slow_down(self, owner: bytes) -> None:
        """Lower the rate of an owner, because a request of it was throttled."""
        self._bucket(owner).slow_down(self._clock.monotonic())

    def _bucket(self, owner: bytes) -> _TokenBucket:
        bucket = self._buckets.get(owner)
        if bucket is None:
            self._forget_some()
            bucket = self._buckets[owner] = _TokenBucket(self._max_rate, self._clock.monotonic())
        return bucket

    def _forget_some(self) -> None:
        # Two for each addition, so that idle owners cannot pile up behind one that is not idle.
        now = self._clock.monotonic()
        for owner in list(itertools.islice(self._buckets, 2)):
            if self._buckets[owner].is_full(now):
                del self._buckets[owner]
            else:
                self._buckets.move_to_end(owner)

    @property
    def owners(self) -> int:
        """The number of owners in memory."""
        return len(self._buckets)
