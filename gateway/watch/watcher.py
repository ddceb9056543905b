"""A watcher: the position of one client in a poll loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic

import msgspec

from gateway.clock import RearmableTimer
from gateway.watch.state import S

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.errors import GatewayError, UpstreamError
    from gateway.watch.loop import PollLoop


class StateChange(msgspec.Struct, Generic[S], frozen=True):
    """A state that differs from the previous one. `last` means that no other follows.

    `skipped` is the number of states in between that the watcher did not get.
    """

    state: S
    skipped: int
    last: bool


class NoChange(msgspec.Struct, frozen=True):
    """The state is the same as before. `next_poll_time` is in seconds since the epoch, or None during a poll.

    `failures` is the number of failed polls since the last success, and `last_failure` the last of them.
    """

    next_poll_time: float | None
    failures: int
    last_failure: UpstreamError | None


class Watcher(Generic[S]):
    """A watcher of one loop. It remembers a version and has no queue, so a slow client gets the latest state.

    `seen` returns whether the client knows a state from an earlier watch. It is asked about the first state, unless
    that is the last one, which is always delivered.
    """

    def __init__(self, loop: PollLoop[S], seen: Callable[[S], bool] | None) -> None:
        self._loop = loop
        self._clock = loop.clock
        self._seen = seen
        self._version = 0
        # The time at which the state that was returned last became available, in seconds of the clock.
        self.since = self._clock.monotonic()
        self._waiting: asyncio.Future[None] | None = None
        # One timer for all waits, because each event of thousands of watchers would otherwise create one.
        self._timer = RearmableTimer(self._clock, self.wake)
        self._ended: GatewayError | None = None

    @property
    def latest(self) -> S | None:
        """The latest state of the loop, or None if it has not read one yet."""
        return self._loop.state

    def wake(self) -> None:
        """Let a waiting `next` look at the loop again."""
        # Without a waiting `next`, nothing is lost: the following one looks before it waits.
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def end(self, error: GatewayError) -> None:
        """Let `next` raise `error`, regardless of the loop."""
        self._ended = error
        self.wake()

    async def next(self, until: float) -> StateChange[S] | NoChange:
        """Return the next change, or `NoChange` if there is none before `until` (seconds of the clock).

        Raises:
            GatewayError: The failure of the loop, or the error that `end` was given.
        """
        while (changed := self._take()) is None:
            if self._clock.monotonic() >= until:
                return self._no_change()
            self._timer.set(until)
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return changed

    def close(self) -> None:
        """Free the memory of the watcher, such as a large result. Do not call `next` afterwards."""
        self._timer.close()

    def _take(self) -> StateChange[S] | None:
        loop = self._loop
        if self._ended is not None:
            raise self._ended
        if loop.state is not None and loop.version > self._version:
            first = self._version == 0
            skipped = 0 if first else loop.version - self._version - 1
            self._version = loop.version
            self.since = max(self.since, loop.observed_at)
            known = first and not loop.is_done and self._seen is not None and self._seen(loop.state)
            if not known:
                return StateChange(loop.state, skipped, loop.is_done)
        if loop.failure is not None:
            raise loop.failure.with_traceback(None)
        return None

    def _no_change(self) -> NoChange:
        loop = self._loop
        due = loop.next_poll
        wall = None if due is None else self._clock.time() + max(0.0, due - self._clock.monotonic())
        return NoChange(wall, loop.failures, loop.last_failure)
