"""Who watches what: joins watchers to loops, and ends loops that nobody watches."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.clock import sleep_until
from gateway.watch.loop import PollLoop, PollPolicy
from gateway.watch.recent import ReadKeys, RecentResults
from gateway.watch.throttle import ThrottleGate
from gateway.watch.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from gateway.clock import Clock, PauseTimeout
    from gateway.errors import GatewayError
    from gateway.watch.sent_jobs import WatchKey

S = TypeVar("S")

DRAIN_SLICES = 20


class Hub(Generic[S]):
    """All loops of this process: one per `WatchKey`, from its first watcher to its last.

    A read that is in flight when the last watcher leaves is finished, and its state kept for a while.
    """

    def __init__(self, clock: Clock, policy: PollPolicy[S]) -> None:
        self._clock = clock
        self._policy = policy
        self._loops: dict[WatchKey, PollLoop[S]] = {}
        self._recent: RecentResults[PollLoop[S]] = RecentResults(clock)
        self._read = ReadKeys(clock)
        self._throttle = ThrottleGate(clock)
        self._watchers: set[Watcher[S]] = set()
        # Tasks that were cancelled and have not ended yet: kept, for asyncio holds tasks only weakly.
        self._stopping: set[asyncio.Task[None]] = set()

    @contextmanager
    def watch(
        self,
        key: WatchKey,
        fetch: Callable[[PauseTimeout], Awaitable[S]],
        seen: Callable[[S], bool] | None = None,
        *,
        just_submitted: bool = False,
        exists: bool = False,
    ) -> Iterator[Watcher[S]]:
        """Watch what `key` names, until the context is left.

        `fetch` reads the state once and raises `UpstreamError`; it is used if this watcher is the first. It pauses the
        time that it is given while it waits for something of ours. `seen`: see `Watcher`; `just_submitted`: see
        `PollLoop`; `exists`: see `Refusals`.
        """
        loop = self._loops.get(key) or self._recent.get(key)
        if loop is None:
            loop = PollLoop(
                self._clock,
                self._policy,
                self._throttle,
                key,
                fetch,
                partial(self._forget, key),
                just_submitted=just_submitted,
            )
            self._loops[key] = loop
        watcher = Watcher(loop, seen)
        loop.join(watcher, exists=exists or key in self._read)
        self._watchers.add(watcher)
        self._policy.observer.watcher_joined()
        try:
            yield watcher
        finally:
            watcher.close()
            self._watchers.discard(watcher)
            loop.watchers.discard(watcher)
            if not loop.watchers and not loop.task.done() and not loop.outlives_watchers():
                self._stopping.add(loop.task)
                loop.task.add_done_callback(self._stopping.discard)
                loop.stop()

    def _forget(self, key: WatchKey, loop: PollLoop[S]) -> None:
        if loop.state is not None:
            self._read.add(key)
        # From here on a newcomer gets the end, or a loop of its own.
        if self._loops.get(key) is loop:
            del self._loops[key]
            if loop.last and loop.state is not None:
                self._recent.keep(key, loop, self._policy.size(loop.state))

    @property
    def watching(self) -> int:
        """How many watchers there are."""
        return len(self._watchers)

    async def end_watchers(self, error: Callable[[], GatewayError], until: float) -> None:
        """Ends every watcher with an error of its own, in slices from now to shortly before `until` of the clock."""
        watchers = list(self._watchers)
        began = self._clock.monotonic()
        size = -(-len(watchers) // DRAIN_SLICES) or 1
        for number, start in enumerate(range(0, len(watchers), size)):
            # One slice of time is left over for the last ones to go.
            await sleep_until(self._clock, began + (until - began) * number / (DRAIN_SLICES + 1))
            for watcher in watchers[start : start + size]:
                watcher.end(error())

    async def aclose(self) -> None:
        """Stops all loops, and returns when their tasks have ended."""
        self._recent.clear()
        loops = tuple(self._loops.values())
        for loop in loops:
            loop.stop()
        tasks = {loop.task for loop in loops} | self._stopping
        await asyncio.gather(*tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._loops)
