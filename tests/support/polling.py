"""A scripted poller for the hub: states and failures without sockets."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.limits.fair_budget import FairBudget
from gateway.limits.rate_limiter import RateLimiter
from gateway.watch import Hub, InMemorySentJobs, PollPolicy, PollSchedule

if TYPE_CHECKING:
    from gateway.clock import PauseTimeout
    from gateway.errors import GatewayError
    from gateway.watch import SentJobs
    from tests.support.clock import SteppedClock


@dataclass(frozen=True)
class State:
    """A state for the hub. `url` and `size` do not count for equality."""

    value: int
    last: bool = False
    url: str = ""
    size: int = 100

    @property
    def is_last(self) -> bool:
        return self.last

    def equals(self, other: State) -> bool:
        return self.value == other.value and self.last == other.last


class IgnoringObserver:
    """A `PollObserver` that does nothing."""

    def loop_began(self) -> None:
        pass

    def watcher_joined(self) -> None:
        pass

    def polled(self, error: GatewayError | None, watchers: int) -> None:
        pass


class Hang:
    """A poll without a response."""


class FakePoller:
    """Return the entries of `script` in order, then the last one forever, immediately unless it is a `Hang`."""

    def __init__(self, clock: SteppedClock, *script: State | Exception | type[Hang]) -> None:
        self.clock = clock
        self.script = deque(script)
        self.times: list[float] = []
        self.cancelled = 0

    async def __call__(self, pause: PauseTimeout = nullcontext) -> State:
        self.times.append(self.clock.now)
        entry = self.script.popleft() if len(self.script) > 1 else self.script[0]
        if entry is Hang:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if isinstance(entry, Exception):
            raise entry
        assert isinstance(entry, State)
        return entry

    @property
    def count(self) -> int:
        return len(self.times)

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def make_hub(
    clock: SteppedClock,
    *,
    shortest: float = 1.0,
    longest: float = 1.0,
    outage: float = 300.0,
    slots: int = 8,
    rate: float = 1_000.0,
    seed: int = 1,
    sent_jobs: SentJobs | None = None,
) -> Hub[State]:
    """Create a hub of `State`s."""
    policy = PollPolicy(
        schedule=PollSchedule(shortest, longest, random.Random(seed)),
        outage_seconds=outage,
        rate_limiter=RateLimiter(clock, rate),
        slots=FairBudget(slots),
        sent_jobs=sent_jobs or InMemorySentJobs(clock),
        observer=IgnoringObserver(),
    )
    return Hub(clock, policy)
