"""The poll loop of one job under one credential.

State changes in plain methods, between two awaits: whoever looks sees all of a change or none of it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.clock import TimeLimit, sleep_until
from gateway.errors import GatewayError, UpstreamError, UpstreamOutage, UpstreamTimedOut
from gateway.watch.observer import UNOBSERVED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from gateway.budget import Budget
    from gateway.clock import Clock, Pause
    from gateway.rates import Rates
    from gateway.watch.cadence import Cadence
    from gateway.watch.observer import Observer
    from gateway.watch.watcher import Watcher

S = TypeVar("S")

# One poll that never ends must leave time of an outage's limit for others.
LONGEST_POLL_PART = 1 / 3
WAKE_AT_ONCE = 25


@dataclass(frozen=True)
class Rules(Generic[S]):
    """What holds for every loop of a hub.

    `same`: whether two states are equal to a watcher. `is_last`: whether nothing follows a state. `size`: what
    keeping a state costs, in bytes. `outage_seconds`: how long passing failures are ridden out. `rates`: how often each
    credential may poll. `slots`: a poll takes one before it starts. `observer` is told what happens.
    """

    same: Callable[[S, S], bool]
    is_last: Callable[[S], bool]
    size: Callable[[S], int]
    cadence: Cadence
    outage_seconds: float
    rates: Rates
    slots: Budget
    observer: Observer = UNOBSERVED


class Holds:
    """Until when the loops of each credential are held back, for the upstream throttled one of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: dict[bytes, float] = {}

    def until(self, credential: bytes) -> float:
        """The moment of the clock (seconds) at which the loops of a credential may poll again; in the past for most."""
        return self._until.get(credential, 0.0)

    def hold(self, credential: bytes, until: float) -> None:
        """Holds the loops of a credential back until that moment at least."""
        now = self._clock.monotonic()
        # A hold outlives the loop that met it, for the others; what is over is forgotten here.
        self._until = {each: moment for each, moment in self._until.items() if moment > now}
        self._until[credential] = max(until, self.until(credential))


class Loop(Generic[S]):
    """Polls at once, and then until a state is the last, a failure is final, or an outage has lasted too long.

    Where what it polls is `fresh`, the first poll would show nothing new, and comes after the shortest interval.
    """

    def __init__(
        self,
        clock: Clock,
        rules: Rules[S],
        holds: Holds,
        credential: bytes,
        fetch: Callable[[Pause], Awaitable[S]],
        on_end: Callable[[Loop[S]], None],
        *,
        fresh: bool,
    ) -> None:
        self.clock = clock
        self.watchers: set[Watcher[S]] = set()
        self.state: S | None = None
        self.version = 0
        self.observed_at = 0.0
        self.last = False
        self.failure: GatewayError | None = None
        self.failures = 0
        self.last_failure: UpstreamError | None = None
        self.next_poll: float | None = clock.monotonic() + (rules.cadence.shortest if fresh else 0.0)
        self._rules = rules
        self._holds = holds
        self._credential = credential
        self._fetch = fetch
        self._on_end = on_end
        self._began = clock.monotonic()
        rules.observer.loop_began()
        self._failing_since: float | None = None
        self.task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Stops polling, for nobody watches any more."""
        self._on_end(self)
        self.task.cancel()

    async def _run(self) -> None:
        try:
            await self._poll_until_last()
        except asyncio.CancelledError:
            if self.task.cancelling():
                # Not raised: the task would keep it, with frames that hold this loop, which holds the task.
                return
            # Nobody asked this loop to stop: something below it was cancelled, and the watchers must hear of it.
            self._end(GatewayError("a poll was cancelled from within"))
        except GatewayError as error:
            self._end(error)
        except Exception as error:  # noqa: BLE001 - it goes on to every watcher as the cause
            defect = GatewayError("a poll failed in a way that is not foreseen")
            defect.__cause__ = error
            self._end(defect)

    async def _poll_until_last(self) -> None:
        while not self.last:
            await self._until_due()
            due = self.clock.monotonic()
            await self._rules.rates.turn(self._credential)
            with await self._rules.slots.take(self._credential):
                self._discount(self.clock.monotonic() - due)
                # While this one waited for its turn, another may have been told to slow down.
                if self._held_until > self.clock.monotonic():
                    continue
                await self._poll()

    async def _until_due(self) -> None:
        while True:
            if self.next_poll is None or self._held_until > self.next_poll:
                self.next_poll = self._held_until + self._rules.cadence.crowd_spread()
            give_up = self._give_up_at(self.next_poll)
            await sleep_until(self.clock, min(self.next_poll, give_up))
            now = self.clock.monotonic()
            if self.last_failure is not None and now >= give_up and self.next_poll > give_up:
                raise self._outage(self.last_failure)
            if now >= max(self.next_poll, self._held_until):
                return

    def _discount(self, waited: float) -> None:
        # What was spent waiting for a turn of our own is no time of an outage.
        if self._failing_since is not None:
            self._failing_since += waited

    @property
    def _held_until(self) -> float:
        return self._holds.until(self._credential)

    async def _poll(self) -> None:
        started = self.clock.monotonic()
        longest = started + self._rules.outage_seconds * LONGEST_POLL_PART
        give_up = self._give_up_at(started)
        self.next_poll = None
        limit = TimeLimit(self.clock, min(longest, give_up))
        try:
            try:
                async with limit:
                    state = await self._fetch(limit.pause)
            finally:
                self._discount(limit.paused)
        except TimeoutError:
            timed_out = UpstreamTimedOut("the upstream did not answer in time")
            # The limit of the outage cuts a poll off that has maybe just begun: what failed before says more.
            self._fail(started + limit.paused, timed_out if longest < give_up else self.last_failure or timed_out)
        except UpstreamError as error:
            self._fail(started + limit.paused, error)
        else:
            self._observe(state)

    def _give_up_at(self, now: float) -> float:
        since = now if self._failing_since is None else self._failing_since
        return since + self._rules.outage_seconds

    def _observe(self, state: S) -> None:
        now = self.clock.monotonic()
        rules = self._rules
        rules.observer.polled(None, len(self.watchers))
        self.failures = 0
        self.last_failure = None
        self._failing_since = None
        self.next_poll = now + rules.cadence.interval(now - self._began)
        changed = self.state is None or not rules.same(self.state, state)
        self.state = state
        self.last = rules.is_last(state)
        if changed:
            self.observed_at = now
            self.version += 1
        if self.last:
            self._on_end(self)
        if changed:
            self._wake_watchers()

    def _fail(self, started: float, error: UpstreamError) -> None:
        self._rules.observer.polled(error, len(self.watchers))
        if not error.passing:
            raise error
        now = self.clock.monotonic()
        cadence = self._rules.cadence
        self.failures += 1
        # Without its traceback, as in `_end`.
        self.last_failure = error.with_traceback(None)
        if self._failing_since is None:
            self._failing_since = started
        if now >= self._give_up_at(now):
            raise self._outage(error)
        wait = cadence.backoff(self.failures)
        if error.retry_after is not None:
            wait = max(wait, error.retry_after + cadence.spread())
        self.next_poll = now + wait
        if error.throttled:
            self._rules.rates.slow_down(self._credential)
            self._holds.hold(self._credential, now + min(wait, self._rules.outage_seconds))

    def _outage(self, last: UpstreamError) -> UpstreamOutage:
        since = self._began if self._failing_since is None else self._failing_since
        return UpstreamOutage(last, self.clock.monotonic() - since)

    def _end(self, failure: GatewayError) -> None:
        # Its traceback, and that of what it was raised after, hold this loop.
        failure.__context__ = None
        self.failure = failure.with_traceback(None)
        self._on_end(self)
        self._wake_watchers()

    def _wake_watchers(self) -> None:
        self._wake_some(iter(tuple(self.watchers)))

    def _wake_some(self, watchers: Iterator[Watcher[S]]) -> None:
        for number, watcher in enumerate(watchers, 1):
            watcher.wake()
            if number == WAKE_AT_ONCE:
                # What they do now is done before others are woken, so that the event loop never stands still for long.
                asyncio.get_running_loop().call_soon(self._wake_some, watchers)
                return
