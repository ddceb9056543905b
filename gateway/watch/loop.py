"""The poll loop of one job under one credential: a state machine, drawn in docs/concepts.md.

All changes happen in plain methods, between two awaits, so that no one sees half of a change.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from gateway.errors import GatewayError, InternalError, UpstreamError, UpstreamTimeout
from gateway.watch.outage import Outage
from gateway.watch.overdue import OverdueCheck
from gateway.watch.presence import Presence, Waiter
from gateway.watch.refusals import Refusals
from gateway.watch.snapshot import LoopSnapshot
from gateway.watch.state import S
from gateway.watch.timing import PollTiming

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.clock import Clock, PauseTimeout
    from gateway.limits.fair_budget import FairBudget
    from gateway.limits.rate_limiter import RateLimiter
    from gateway.time_limits import TimeLimit, TimeLimits
    from gateway.watch.key import WatchKey
    from gateway.watch.observer import PollObserver
    from gateway.watch.schedule import PollSchedule
    from gateway.watch.sent_jobs import SentJobs
    from gateway.watch.throttle import ThrottleGate


@dataclass(frozen=True)
class PollPolicy:
    """The rules for all loops of a hub.

    Attributes:
        schedule: The intervals between polls.
        outage_seconds: The time for which transient failures are retried.
        rate_limiter: The rate at which each credential may poll.
        slots: The number of concurrent polls; each poll takes one.
        sent_jobs: The jobs that were sent by this process.
        observer: The receiver of the metrics.
    """

    schedule: PollSchedule
    outage_seconds: float
    rate_limiter: RateLimiter
    slots: FairBudget
    sent_jobs: SentJobs
    observer: PollObserver


class PollLoop(Generic[S]):
    """Polls a job until its last state or a final failure, and publishes both to its watchers.

    These methods are the states of the picture in docs/concepts.md:

    - Queued: `_poll_in_turn`, which waits for the rate and a slot.
    - Polling: `_poll`. `_succeed` and `_fail` evaluate it.
    - Waiting, failing, confirming: `_wait_until_due`.
    - Unwatched: `_is_joined_again`.
    - Ended: `_succeed` with a last state. Failed: `_end`. Stopped: `stop`, or no watcher joined again.
    """

    def __init__(
        self,
        clock: Clock,
        policy: PollPolicy,
        throttle: ThrottleGate,
        time_limits: TimeLimits,
        key: WatchKey,
        fetch: Callable[[PauseTimeout], Awaitable[S]],
        on_end: Callable[[PollLoop[S]], None],
        *,
        just_submitted: bool,
    ) -> None:
        """Start polling.

        Args:
            clock: The clock of all moments, in seconds.
            policy: The rules of the hub.
            throttle: The delays that the upstream asked for.
            time_limits: Limits the time of each poll.
            key: The job and the credential.
            fetch: Reads the state once, or raises `UpstreamError`.
            on_end: Called in the step in which the loop ends, before its watchers are woken.
            just_submitted: Poll first after the shortest interval, because before that there is nothing new.
        """
        self.clock = clock
        # Published to the watchers. The version grows with each change; `observed_at` is the time of the last one.
        self.state: S | None = None
        self.version = 0
        self.observed_at = 0.0
        self.failure: GatewayError | None = None

        self._policy = policy
        self._throttle = throttle
        self._time_limits = time_limits
        self._key = key
        self._credential = key.poll_key
        self._fetch = fetch
        self._on_end = on_end
        self._began = clock.monotonic()
        sent = policy.sent_jobs.find(key.job)
        self._presence = Presence(clock)
        self._refusals = Refusals(sent, exists=False)
        self._outage = Outage(policy.outage_seconds)
        due = self._began + (policy.schedule.shortest if just_submitted else 0.0)
        self._timing = PollTiming(due, self._outage, throttle, policy.schedule, key.poll_key)
        self._overdue = OverdueCheck(sent)
        policy.observer.loop_began()
        self.task = asyncio.get_running_loop().create_task(self._run())

    @property
    def is_watched(self) -> bool:
        """True if the loop has watchers."""
        return self._presence.is_watched

    @property
    def is_done(self) -> bool:
        """True if the loop has read the last state."""
        return self.state is not None and self.state.is_last

    @property
    def next_poll(self) -> float | None:
        """The time of the next poll, or None during a poll."""
        return None if self._presence.is_reading else self._timing.due

    @property
    def failures(self) -> int:
        """The number of failed polls since the last success."""
        return self._outage.failures

    @property
    def last_failure(self) -> UpstreamError | None:
        """The last of these failures, or None."""
        return self._outage.last_failure

    def snapshot(self) -> LoopSnapshot[S]:
        """Return the loop as it is now."""
        presence, outage = self._presence, self._outage
        return LoopSnapshot(
            self._key,
            self.state,
            self._began,
            self.next_poll,
            outage.failures,
            outage.last_failure,
            presence.count,
            presence.clients,
        )

    def join(self, watcher: Waiter, *, exists: bool) -> None:
        """Add a watcher. `exists` means that its client knows that the job exists."""
        if not self._presence.is_watched:
            # Failures and running time that no present watcher has seen must not end the watch.
            self._outage.restart()
            self._overdue.restart()
        self._presence.add(watcher)
        self._refusals.exists |= exists

    def leave(self, watcher: Waiter) -> None:
        """Remove a watcher. If it was the last one, the loop stops, immediately or after a while."""
        stays = self._presence.remove(watcher)
        if not stays and not self.task.done():
            self.stop()

    def stop(self) -> None:
        """Stop polling."""
        self._on_end(self)
        self.task.cancel()

    async def _run(self) -> None:
        try:
            await self._poll_until_done()
        except asyncio.CancelledError:
            if self.task.cancelling():
                # Raised again, it would be kept by the task, with frames that hold this loop, which holds the task.
                return
            # The loop was not stopped, but something below it was cancelled.
            self._end(InternalError("the poll was cancelled internally"))
        except GatewayError as error:
            self._end(error)
        except Exception as error:  # noqa: BLE001 - all watchers get it as the cause
            defect = InternalError("the poll failed unexpectedly")
            defect.__cause__ = error
            self._end(defect)

    async def _poll_until_done(self) -> None:
        while not self.is_done:
            if not self._presence.is_watched and not await self._is_joined_again():
                self._on_end(self)
                return
            if await self._wait_until_due():
                await self._poll_in_turn()

    async def _is_joined_again(self) -> bool:
        """Wait for a watcher; return False if none joins in time.

        Raises:
            JobOverdue: The last state, which was read without watchers, shows an overdue job.
        """
        if not await self._presence.wait_for_watcher():
            return False
        if self.state is not None and not self.failures:
            self._overdue.check(self.clock.monotonic())
        return True

    async def _wait_until_due(self) -> bool:
        """Wait for the time of the next poll; return False if the last watcher leaves first."""
        while self._presence.is_watched:
            # Asked again after each wait, because watchers may have joined, or the credential been throttled.
            now = self.clock.monotonic()
            deadline = self._timing.next_deadline(now)
            if deadline <= now:
                return True
            await self._presence.wait(deadline)
        return False

    async def _poll_in_turn(self) -> None:
        due = self.clock.monotonic()
        await self._policy.rate_limiter.acquire(self._credential)
        with await self._policy.slots.acquire(self._credential):
            now = self.clock.monotonic()
            self._outage.exclude(now - due)
            # During this wait, another loop may have been throttled, or the watchers may have left.
            if self._presence.is_watched and not self._timing.is_throttled(now):
                await self._poll(now)

    async def _poll(self, started: float) -> None:
        limit = self._timing.poll_limit(started)
        time_limit = self._time_limits.until(limit.moment)
        try:
            state = await self._fetch_within(time_limit)
        except TimeoutError:
            timed_out = UpstreamTimeout("the upstream did not respond in time")
            if self._outage.cause is not None and limit.ends_outage:
                # The end of the outage may have cut off a poll that had just begun, so report the previous failure.
                self._policy.observer.polled(timed_out, self._presence.count)
                raise self._outage.error(self._outage.cause, self.clock.monotonic()) from None
            self._fail(started + time_limit.paused, timed_out)
        except UpstreamError as error:
            self._fail(started + time_limit.paused, error)
        else:
            self._succeed(state)

    async def _fetch_within(self, time_limit: TimeLimit) -> S:
        self._presence.begin_read()
        try:
            with time_limit:
                return await self._fetch(time_limit.pause)
        finally:
            self._presence.end_read()
            self._outage.exclude(time_limit.paused)

    def _succeed(self, state: S) -> None:
        now = self.clock.monotonic()
        self._policy.observer.polled(None, self._presence.count)
        recovered = self._outage.failures > 0
        self._outage.succeed()
        self._refusals.succeeded()
        self._timing.due = now + self._policy.schedule.interval(now - self._began)
        changed = self.state is None or not self.state.equals(state)
        # Also if it is equal, because details that watchers do not compare are newer, such as download addresses.
        self.state = state
        if changed:
            self.observed_at = now
            self.version += 1
        if self.is_done:
            self._on_end(self)
        if changed or recovered:
            self._presence.wake_all()
        # Without watchers, the check waits until one joins again, so that it sees the state.
        if not self.is_done and self._presence.is_watched:
            self._overdue.check(now)

    def _fail(self, started: float, error: UpstreamError) -> None:
        self._policy.observer.polled(error, self._presence.count)
        now = self.clock.monotonic()
        if self._refusals.count(error, now):
            raise error
        outage = self._outage
        outage.fail(error, since=max(started, self._presence.watched_since))
        if error.throttled:
            self._policy.rate_limiter.slow_down(self._credential)
        if now >= outage.ends_at:
            raise outage.error(error, now)
        self._timing.due = self._retry_time(error, now)
        if outage.failures == 1:
            self._presence.wake_all()

    def _retry_time(self, error: UpstreamError, now: float) -> float:
        schedule = self._policy.schedule
        wait = schedule.confirmation() if self._refusals.confirming else schedule.backoff(self.failures)
        # The wait of a refusal does not count, because the refusal is confirmed soon.
        asked = error.retry_after if error.transient else None
        if asked is not None:
            wait = max(wait, asked + schedule.jitter())
        if error.throttled:
            self._throttle.close(self._credential, now + min(wait, self._policy.outage_seconds), asked)
        ends_at = self._outage.ends_at
        if asked is not None and now + wait > ends_at:
            self._outage.one_more_poll_allowed = True
            return ends_at
        return now + wait

    def _end(self, failure: GatewayError) -> None:
        # The tracebacks of the failure and of its context hold this loop.
        failure.__context__ = None
        self.failure = failure.with_traceback(None)
        self._on_end(self)
        self._presence.wake_all()
