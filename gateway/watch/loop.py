"""The poll loop of one job under one credential.

State changes in plain methods, between two awaits: whoever looks sees all of a change or none of it.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from gateway.clock import Timeout
from gateway.errors import GatewayError, InternalError, JobOverdue, UpstreamError, UpstreamOutage, UpstreamTimeout
from gateway.watch.observer import NOOP_OBSERVER
from gateway.watch.presence import Presence
from gateway.watch.refusals import Refusals
from gateway.watch.sent_jobs import LONGEST_JOB_SECONDS, OVERDUE_MARGIN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from gateway.clock import Clock, PauseTimeout
    from gateway.limits.fair_budget import FairBudget
    from gateway.limits.rate_limiter import RateLimiter
    from gateway.watch.observer import PollObserver
    from gateway.watch.schedule import PollSchedule
    from gateway.watch.sent_jobs import SentJobs, WatchKey
    from gateway.watch.throttle import ThrottleGate


S = TypeVar("S")

# One poll that never ends must leave time of an outage's limit for others.
LONGEST_POLL_PART = 1 / 3
WAKE_AT_ONCE = 25
# The last look of an outage waits for holds of its credential, but not for longer than this many times its limit.
LONGEST_OUTAGE_LIMITS = 2


class Waiter(Protocol):
    """Waits for news of a loop."""

    def wake(self) -> None:
        """There is news."""


@dataclass(frozen=True)
class PollPolicy(Generic[S]):
    """What holds for every loop of a hub.

    `same`: whether two states are equal to a watcher. `is_last`: whether nothing follows a state. `size`: what
    keeping a state costs, in bytes. `outage_seconds`: how long transient failures are ridden out. `rate_limiter`: how
    often each credential may poll. `slots`: a poll takes one before it starts. `sent_jobs`: what is known of the jobs
    that were sent here. `observer` is told what happens.
    """

    same: Callable[[S, S], bool]
    is_last: Callable[[S], bool]
    size: Callable[[S], int]
    schedule: PollSchedule
    outage_seconds: float
    rate_limiter: RateLimiter
    slots: FairBudget
    sent_jobs: SentJobs
    observer: PollObserver = NOOP_OBSERVER


class PollLoop(Generic[S]):
    """Poll at once, and then until a state is the last, a failure is final, or something has lasted too long.

    With `just_submitted`, the first poll would show nothing new, and comes after the shortest interval. A read in
    flight is finished without watchers too. No other follows it, but the loop waits a while for watchers to come.
    """

    def __init__(
        self,
        clock: Clock,
        policy: PollPolicy[S],
        throttle: ThrottleGate,
        key: WatchKey,
        fetch: Callable[[PauseTimeout], Awaitable[S]],
        on_end: Callable[[PollLoop[S]], None],
        *,
        just_submitted: bool,
    ) -> None:
        self.clock = clock
        self.watchers: set[Waiter] = set()
        self.state: S | None = None
        self.version = 0
        self.observed_at = 0.0
        self.last = False
        self.failure: GatewayError | None = None
        self.failures = 0
        self.last_failure: UpstreamError | None = None
        self.next_poll: float | None = clock.monotonic() + (policy.schedule.shortest if just_submitted else 0.0)
        self._policy = policy
        self._throttle = throttle
        self._credential = key.credential
        self._sent = policy.sent_jobs.find(key.name)
        self._refusals = Refusals(self._sent, exists=False)
        self._fetch = fetch
        self._on_end = on_end
        self._began = clock.monotonic()
        policy.observer.loop_began()
        self._failing_since: float | None = None
        # Whether the next poll is the last one of an outage, which the upstream asked to wait for beyond the limit.
        self._last_look = False
        self._running_since: float | None = None
        self._presence = Presence(clock, self.watchers)
        self.task = asyncio.get_running_loop().create_task(self._run())

    def join(self, watcher: Waiter, *, exists: bool) -> None:
        """Take in a watcher. `exists`: its client knows that the job exists."""
        if not self.watchers:
            # Nobody who watches now has seen what went on before: it must not end their watch.
            self._failing_since = self._running_since = None
            self._last_look = False
            self._presence.begin()
        self.watchers.add(watcher)
        self._refusals.exists |= exists

    def outlives_watchers(self) -> bool:
        """Return whether the loop goes on, for a while, when its last watcher has left."""
        return self._presence.end()

    def stop(self) -> None:
        """Stop polling, because nobody watches any more."""
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
            self._end(InternalError("a poll was cancelled from within"))
        except GatewayError as error:
            self._end(error)
        except Exception as error:  # noqa: BLE001 - it goes on to every watcher as the cause
            defect = InternalError("a poll failed in a way that is not foreseen")
            defect.__cause__ = error
            self._end(defect)

    async def _poll_until_last(self) -> None:
        while not self.last:
            if not self.watchers:
                if not await self._presence.returns():
                    self._on_end(self)
                    return
                # Nobody was told what the last read showed.
                if self.state is not None and not self.failures:
                    self._check_overdue(self.clock.monotonic())
            if not await self._is_due():
                continue
            due = self.clock.monotonic()
            await self._policy.rate_limiter.acquire(self._credential)
            with await self._policy.slots.acquire(self._credential):
                self._discount(self.clock.monotonic() - due)
                # While this one waited for its turn, another may have been told to slow down, or the watchers left.
                if self.watchers and not self._is_throttled(self.clock.monotonic()):
                    await self._poll()

    async def _is_due(self) -> bool:
        # Waits for the next poll, or until nobody watches.
        while self.watchers:
            if self.next_poll is None or self._is_throttled(self.next_poll):
                self.next_poll = self._throttled_until + self._policy.schedule.crowd_spread()
                if self._failing_since is not None and self.next_poll > self._give_up_at(self.next_poll):
                    # The upstream asked for this wait, so the loop looks once more after it.
                    self._last_look = True
                    self.next_poll = min(self.next_poll, self._patience_ends)
            give_up = self._give_up_at(self.next_poll)
            await self._presence.wait(self.next_poll if self._last_look else min(self.next_poll, give_up))
            now = self.clock.monotonic()
            # Another, if other watchers have come.
            give_up = self._give_up_at(self.next_poll)
            beyond = now >= give_up and self.next_poll > give_up and not self._last_look
            if self.last_failure is not None and beyond:
                raise self._outage(self.last_failure)
            if now >= self.next_poll and not self._is_throttled(now):
                return bool(self.watchers)
        return False

    def _is_throttled(self, moment: float) -> bool:
        return self._throttled_until > moment and moment < self._patience_ends

    @property
    def _patience_ends(self) -> float:
        # Holds that others make again and again must not put off the end of an outage for good.
        if self._failing_since is None:
            return math.inf
        return self._failing_since + LONGEST_OUTAGE_LIMITS * self._policy.outage_seconds

    def _discount(self, waited: float) -> None:
        # What was spent waiting for a turn of our own is no time of an outage.
        if self._failing_since is not None:
            self._failing_since += waited

    @property
    def _throttled_until(self) -> float:
        return self._throttle.closed_until(self._credential)

    async def _poll(self) -> None:
        started = self.clock.monotonic()
        longest = started + self._policy.outage_seconds * LONGEST_POLL_PART
        give_up = math.inf if self._last_look else self._give_up_at(started)
        self.next_poll = None
        limit = Timeout(self.clock, min(longest, give_up))
        try:
            try:
                with self._presence.reading():
                    async with limit:
                        state = await self._fetch(limit.pause)
            finally:
                self._discount(limit.paused)
        except TimeoutError:
            timed_out = UpstreamTimeout("the upstream did not answer in time")
            if self.last_failure is not None and self._failing_since is not None and give_up <= longest:
                # The limit of the outage cut off a poll that had maybe just begun: what failed before says more.
                self._policy.observer.polled(timed_out, len(self.watchers))
                raise self._outage(self.last_failure) from None
            self._fail(started + limit.paused, timed_out)
        except UpstreamError as error:
            self._fail(started + limit.paused, error)
        else:
            self._observe(state)

    def _give_up_at(self, now: float) -> float:
        since = now if self._failing_since is None else self._failing_since
        return since + self._policy.outage_seconds

    def _observe(self, state: S) -> None:
        now = self.clock.monotonic()
        policy = self._policy
        policy.observer.polled(None, len(self.watchers))
        self.failures = 0
        self.last_failure = None
        self._failing_since = None
        self._last_look = False
        self._refusals.succeeded()
        self.next_poll = now + policy.schedule.interval(now - self._began)
        changed = self.state is None or not policy.same(self.state, state)
        self.state = state
        self.last = policy.is_last(state)
        if changed:
            self.observed_at = now
            self.version += 1
        if self.last:
            self._on_end(self)
        if changed:
            self._wake_watchers()
        # A state that nobody was there to get is kept, and checked when somebody comes.
        if not self.last and self.watchers:
            self._check_overdue(now)

    def _check_overdue(self, now: float) -> None:
        if self._running_since is None:
            self._running_since = now
        since, timeout = self._running_since, LONGEST_JOB_SECONDS
        if self._sent is not None:
            since, timeout = self._sent.sent_at, self._sent.timeout
        if now < since + timeout + OVERDUE_MARGIN_SECONDS:
            return
        limit = "a day" if self._sent is None else f"its timeout of {timeout:.0f} s"
        raise JobOverdue(
            f"the upstream still shows the job as running after {now - since:.0f} s, longer than {limit} allows; read "
            "it with GetJob to see its own word for the state, or watch it again"
        )

    def _fail(self, started: float, error: UpstreamError) -> None:
        self._policy.observer.polled(error, len(self.watchers))
        now = self.clock.monotonic()
        if self._refusals.count(error, now):
            raise error
        schedule = self._policy.schedule
        self.failures += 1
        # Without its traceback, as in `_end`.
        self.last_failure = error.with_traceback(None)
        if self._failing_since is None:
            self._failing_since = max(started, self._presence.since)
        if error.throttled:
            self._policy.rate_limiter.slow_down(self._credential)
        give_up = self._give_up_at(now)
        if now >= give_up:
            raise self._outage(error)
        wait = schedule.confirmation() if self._refusals.confirming else schedule.backoff(self.failures)
        # Other refusals than the transient ones are asked about again soon, whatever they say of a time.
        self._last_look = False
        if error.transient and error.retry_after is not None:
            wait = max(wait, error.retry_after + schedule.spread())
            self._last_look = now + wait > give_up
        self.next_poll = give_up if self._last_look else now + wait
        if error.throttled:
            self._throttle.close(self._credential, now + min(wait, self._policy.outage_seconds))

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

    def _wake_some(self, watchers: Iterator[Waiter]) -> None:
        for number, watcher in enumerate(watchers, 1):
            watcher.wake()
            if number == WAKE_AT_ONCE:
                # What they do now is done before others are woken, so that the event loop never stands still for long.
                asyncio.get_running_loop().call_soon(self._wake_some, watchers)
                return
