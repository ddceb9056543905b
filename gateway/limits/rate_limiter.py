"""How often each of many owners may do a thing: token buckets that are slowed down by those who ask for it."""

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

# Who was refused together must not come back together.
RETRY_SECONDS = (1.0, 3.0)
# Additive increase: a rate that was slowed down to nothing is back at the most after this time.
RECOVERY_SECONDS = 600.0
# But by no more than this, each second: what was refused must not be back at once where the most is far above it.
FASTEST_RECOVERY = 2.0
# Multiplicative decrease: to this part of what was really used of late, and never below this part of the most, or once
# a second where that is less.
SLOWED_PART = 0.5
LEAST_PART = 1 / 50
# Refusals of what was sent before the rate went down are one sign to slow down, and not many.
ONE_SIGN_SECONDS = 1.0
# Over what time the rate that is used is averaged.
AVERAGE_SECONDS = 5.0
# A token that lacks less than this is whole: sums of fractions are not exact.
EPSILON = 1e-6


def limit_reached(message: str, wait: float = 0.0) -> LimitReached:
    """The error of one who is refused, to come back after `wait` and 1 to 3 seconds more."""
    return LimitReached(message, retry_after=wait + random.uniform(*RETRY_SECONDS))  # noqa: S311 - jitter


class _TokenBucket:
    """The tokens of one owner, as many as come in a second at most."""

    __slots__ = ("_at", "_max_rate", "_rate", "_slowed_at", "_tokens", "_used", "lock")

    def __init__(self, max_rate: float, now: float) -> None:
        self.lock = asyncio.Lock()
        self._max_rate = self._rate = max_rate
        self._tokens = max(1.0, max_rate)
        self._used = 0.0
        self._at = now
        self._slowed_at = -math.inf

    def _pass(self, now: float) -> None:
        passed, self._at = now - self._at, now
        growth = min(self._max_rate / RECOVERY_SECONDS, FASTEST_RECOVERY)
        self._rate = min(self._max_rate, self._rate + passed * growth)
        self._tokens = min(max(1.0, self._rate), self._tokens + passed * self._rate)
        self._used *= math.exp(-passed / AVERAGE_SECONDS)

    def try_acquire(self, now: float) -> float:
        self._pass(now)
        if self._tokens < 1 - EPSILON:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        self._used += 1
        return 0.0

    def slow_down(self, now: float) -> None:
        self._pass(now)
        if now - self._slowed_at < ONE_SIGN_SECONDS:
            return
        self._slowed_at = now
        used = min(self._rate, self._used / AVERAGE_SECONDS)
        self._rate = max(min(1.0, self._max_rate * LEAST_PART), used * SLOWED_PART)
        self._tokens = min(self._tokens, self._rate)

    def rested(self, now: float) -> bool:
        """Whether it is as a new one would be."""
        self._pass(now)
        return self._rate >= self._max_rate and self._tokens >= self._max_rate and not self.lock.locked()


class RateLimiter:
    """At most `per_second` for each owner, and as many at once after a rest.

    `slow_down` halves what an owner has used of late; from there it grows again by the same amount each second, to
    the most in 10 minutes. Who is at rest takes no memory.
    """

    def __init__(self, clock: Clock, per_second: float) -> None:
        self._clock = clock
        self._max_rate = per_second
        self._buckets: OrderedDict[bytes, _TokenBucket] = OrderedDict()

    def try_acquire(self, owner: bytes) -> float:
        """Takes one and returns 0, or takes none and returns in how many seconds there is one."""
        return self._bucket(owner).try_acquire(self._clock.monotonic())

    async def acquire(self, owner: bytes) -> None:
        """Takes one, once there is one; each owner's turns come in their order."""
        bucket = self._bucket(owner)
        async with bucket.lock:
            while (wait := bucket.try_acquire(self._clock.monotonic())) > 0:
                await sleep_until(self._clock, self._clock.monotonic() + wait)
            # One of each owner in a pass of the event loop, so that a crowd does not hold up others meanwhile.
            await asyncio.sleep(0)

    def slow_down(self, owner: bytes) -> None:
        """Lets an owner do it less often from now on."""
        self._bucket(owner).slow_down(self._clock.monotonic())

    def _bucket(self, owner: bytes) -> _TokenBucket:
        bucket = self._buckets.get(owner)
        if bucket is None:
            self._forget_some()
            bucket = self._buckets[owner] = _TokenBucket(self._max_rate, self._clock.monotonic())
        return bucket

    def _forget_some(self) -> None:
        # Two for each that comes, so that they cannot pile up behind one that is not at rest.
        now = self._clock.monotonic()
        for owner in list(itertools.islice(self._buckets, 2)):
            if self._buckets[owner].rested(now):
                del self._buckets[owner]
            else:
                self._buckets.move_to_end(owner)

    def __len__(self) -> int:
        """How many owners are remembered."""
        return len(self._buckets)
