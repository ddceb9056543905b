"""One watcher's place in a loop: what it was given, and what it gets next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from gateway.clock import RearmableTimer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.errors import GatewayError, UpstreamError
    from gateway.watch.loop import PollLoop

S = TypeVar("S")


class StateChange(msgspec.Struct, Generic[S], frozen=True):
    """A state that differs from the one before; `skipped` states between them were not given. `last`: none follows."""

    state: S
    skipped: int
    last: bool


class NoChange(msgspec.Struct, frozen=True):
    """Nothing has changed. `next_poll_time` is in seconds since the epoch, None while a poll is under way."""

    next_poll_time: float | None
    failures: int
    last_failure: UpstreamError | None


class Watcher(Generic[S]):
    """A watcher of one loop. It keeps a position and no queue: a slow one gets the latest state.

    `seen` says of a state that is not the last whether this watcher's client has it already, from an earlier watch.
    """

    def __init__(self, loop: PollLoop[S], seen: Callable[[S], bool] | None) -> None:
        self.loop = loop
        self._seen = seen
        self._version = 0
        # Since when the state that was given last could be given (seconds of the clock).
        self.since = loop.clock.monotonic()
        self._waiting: asyncio.Future[None] | None = None
        # One for all waits, for an event comes to each of thousands of watchers, and nearly always before it rings.
        self._timer = RearmableTimer(loop.clock, self.wake)
        self._ended: GatewayError | None = None

    def wake(self) -> None:
        """Makes a waiting `next` look again."""
        # Nothing is lost where none waits: `next` looks before it does.
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def end(self, error: GatewayError) -> None:
        """Makes `next` raise `error`, whatever the loop does."""
        self._ended = error
        self.wake()

    async def next(self, until: float) -> StateChange[S] | NoChange:
        """The next change, or `NoChange` where there is none before `until` (seconds of the clock).

        Raises what ended the loop, or what `end` was given.
        """
        while (changed := self._take()) is None:
            if self.loop.clock.monotonic() >= until:
                return self._no_change()
            self._timer.set(until)
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return changed

    def close(self) -> None:
        """`next` is not called any more. What the watcher holds, such as a large result, is freed with it."""
        self._timer.close()

    def _take(self) -> StateChange[S] | None:
        loop = self.loop
        if self._ended is not None:
            raise self._ended
        if loop.state is not None and loop.version > self._version:
            first = self._version == 0
            skipped = 0 if first else loop.version - self._version - 1
            self._version = loop.version
            self.since = max(self.since, loop.observed_at)
            known = first and not loop.last and self._seen is not None and self._seen(loop.state)
            if not known:
                return StateChange(loop.state, skipped, loop.last)
        if loop.failure is not None:
            raise loop.failure.with_traceback(None)
        return None

    def _no_change(self) -> NoChange:
        loop = self.loop
        clock = loop.clock
        due = loop.next_poll
        wall = None if due is None else clock.time() + max(0.0, due - clock.monotonic())
        return NoChange(wall, loop.failures, loop.last_failure)
