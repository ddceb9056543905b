"""The poll hub: assigns watchers to loops."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Generic

from gateway.clock import sleep_until
from gateway.limits.holds import Holds
from gateway.time_limits import TimeLimits
from gateway.watch.loop import PollLoop, PollPolicy
from gateway.watch.recent import ReadKeys, RecentResults
from gateway.watch.state import S
from gateway.watch.throttle import ThrottleGate
from gateway.watch.watcher import Position, Subscription, Watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from gateway.clock import Clock, PauseTimeout
    from gateway.errors import GatewayError
    from gateway.watch.key import WatchKey
    from gateway.watch.watcher import Group

DRAIN_SLICES = 20
# Watches that are left in one step, because to stop thousands of loops together would block the event loop.
LEAVE_BATCH = 100


class Hub(Generic[S]):
    """All poll loops of this process: one per `WatchKey`, however many clients watch."""

    def __init__(self, clock: Clock, policy: PollPolicy, holds: Holds | None = None) -> None:
        self._clock = clock
        self._policy = policy
        self._loops: dict[WatchKey, PollLoop[S]] = {}
        self._recent: RecentResults[PollLoop[S]] = RecentResults(clock)
        self._recently_read = ReadKeys(clock)
        self._throttle = ThrottleGate(clock, holds or Holds(clock))
        self._time_limits = TimeLimits(clock)
        self._watchers: set[Position[S]] = set()
        self._leaving: deque[Position[S]] = deque()
        # The tasks of all loops, including cancelled ones that have not ended. asyncio refers to tasks only weakly.
        self._tasks: set[asyncio.Task[None]] = set()

    @contextmanager
    def watch(
        self,
        key: WatchKey,
        fetch: Callable[[PauseTimeout], Awaitable[S]],
        seen: Callable[[S], bool] | None = None,
        *,
        client: bytes = b"",
        just_submitted: bool = False,
        exists: bool = False,
    ) -> Iterator[Watcher[S]]:
        """Watch a job until the context is left.

        Args:
            key: The job and the credential.
            fetch: Reads the state once, or raises `UpstreamError`. The loop uses the function of its first watcher.
                The function holds the given context while it waits for the gateway itself; that time does not count.
            seen: See `Watcher`.
            client: See `Position`.
            just_submitted: See `PollLoop`.
            exists: See `Refusals`.
        """
        watcher = Watcher(self._loop(key, fetch, just_submitted=just_submitted), seen, client)
        self._join(watcher, key, exists=exists)
        try:
            yield watcher
        finally:
            watcher.close()
            self.leave(watcher)

    def subscribe(
        self,
        key: WatchKey,
        fetch: Callable[[PauseTimeout], Awaitable[S]],
        seen: Callable[[S], bool] | None,
        on_wake: Callable[[], None],
        *,
        group: Group,
        client: bytes = b"",
        exists: bool = False,
    ) -> Subscription[S]:
        """Watch a job until `leave`. For the arguments, see `watch`, `Subscription` and `Position.group`."""
        subscription = Subscription(self._loop(key, fetch, just_submitted=False), seen, client, on_wake, group)
        self._join(subscription, key, exists=exists)
        return subscription

    def leave(self, watcher: Position[S]) -> None:
        """End a watch. If it was the last one of its job, the loop stops."""
        self._watchers.discard(watcher)
        watcher.loop.leave(watcher)

    def leave_all(self, watchers: Iterable[Position[S]]) -> None:
        """End watches: immediately if they are few, otherwise in several steps of the event loop."""
        in_steps = bool(self._leaving)
        self._leaving.extend(watchers)
        if not in_steps:
            self._leave_some()

    def _leave_some(self) -> None:
        for _ in range(min(LEAVE_BATCH, len(self._leaving))):
            self.leave(self._leaving.popleft())
        if self._leaving:
            asyncio.get_running_loop().call_soon(self._leave_some)

    @property
    def loops(self) -> tuple[PollLoop[S], ...]:
        """The running loops."""
        return tuple(self._loops.values())

    @property
    def loop_count(self) -> int:
        """The number of running loops."""
        return len(self._loops)

    @property
    def failing_loop_count(self) -> int:
        """The number of running loops whose last poll failed."""
        return sum(loop.failures > 0 for loop in self._loops.values())

    @property
    def watcher_count(self) -> int:
        """The number of watchers."""
        return len(self._watchers)

    async def end_watchers(self, error: Callable[[], GatewayError], until: float) -> None:
        """End every watcher, in slices of groups from now to shortly before `until` (seconds of the clock).

        `error` creates the error of each group.
        """
        groups = list({watcher.group for watcher in self._watchers})
        began = self._clock.monotonic()
        size = -(-len(groups) // DRAIN_SLICES) or 1
        for number, start in enumerate(range(0, len(groups), size)):
            # One more slice of time than watchers, so that the last clients can leave.
            await sleep_until(self._clock, began + (until - began) * number / (DRAIN_SLICES + 1))
            for group in groups[start : start + size]:
                group.end(error())

    async def aclose(self) -> None:
        """Stop all loops, and return when their tasks have ended."""
        self._recent.clear()
        for loop in tuple(self._loops.values()):
            loop.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._time_limits.close()

    def _join(self, watcher: Position[S], key: WatchKey, *, exists: bool) -> None:
        watcher.loop.join(watcher, exists=exists or key in self._recently_read)
        self._watchers.add(watcher)
        self._policy.observer.watcher_joined()

    def _loop(
        self, key: WatchKey, fetch: Callable[[PauseTimeout], Awaitable[S]], *, just_submitted: bool
    ) -> PollLoop[S]:
        loop = self._loops.get(key) or self._recent.get(key)
        if loop is not None:
            return loop
        loop = PollLoop(
            self._clock,
            self._policy,
            self._throttle,
            self._time_limits,
            key,
            fetch,
            partial(self._on_loop_end, key),
            just_submitted=just_submitted,
        )
        self._loops[key] = loop
        self._tasks.add(loop.task)
        loop.task.add_done_callback(self._tasks.discard)
        return loop

    def _on_loop_end(self, key: WatchKey, loop: PollLoop[S]) -> None:
        if loop.state is not None:
            self._recently_read.add(key)
        # The next watcher gets the recent result, or a new loop.
        if self._loops.get(key) is loop:
            del self._loops[key]
            if loop.state is not None and loop.state.is_last:
                self._recent.keep(key, loop, loop.state.size, was_watched=loop.is_watched)
