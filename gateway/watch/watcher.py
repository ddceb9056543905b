"""The position of one client in a poll loop: woken by a callback, or awaited."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, Protocol

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


class Group(Protocol):
    """Watches that end together when the process drains."""

    def end(self, error: GatewayError) -> None:
        """End all of them with `error`."""


class Position(ABC, Generic[S]):
    """The position of one client in a loop.

    It remembers a version and has no queue, so a slow client gets the latest state.

    Args:
        loop: The loop.
        seen: Returns whether the client knows a state from an earlier watch. It is asked about the first state, unless
            that is the last one, which is always delivered.
        client: The `caller_key` of the client.

    Attributes:
        loop: The loop.
        client: The `caller_key` of the client.
        since: The time at which the state that was taken last became available, in seconds of the clock.
    """

    __slots__ = ("_seen", "_version", "client", "loop", "since")

    def __init__(self, loop: PollLoop[S], seen: Callable[[S], bool] | None, client: bytes) -> None:
        self.loop = loop
        self.client = client
        self.since = loop.clock.monotonic()
        self._seen = seen
        self._version = 0

    @property
    def latest(self) -> S | None:
        """The latest state of the loop, or None if it has not read one yet."""
        return self.loop.state

    @property
    def is_behind(self) -> bool:
        """True if the loop has a state that `take` has not seen yet."""
        return self.loop.version > self._version

    @property
    def has_begun(self) -> bool:
        """True if `take` has seen a state, also if the client knew it."""
        return self._version > 0

    @property
    @abstractmethod
    def group(self) -> Group:
        """The watches with which this one ends when the process drains."""

    @abstractmethod
    def wake(self) -> None:
        """Look at the loop again, because `take` may return something else than before."""

    def take(self) -> StateChange[S] | None:
        """Return the change since the last call, or None if there is none.

        Raises:
            GatewayError: The failure of the loop.
        """
        loop = self.loop
        if loop.state is not None and self.is_behind:
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

    def no_change(self) -> NoChange:
        """Return how the polling goes if there is no change."""
        loop = self.loop
        due = loop.next_poll
        wall = None if due is None else loop.clock.time() + max(0.0, due - loop.clock.monotonic())
        return NoChange(wall, loop.failures, loop.last_failure)


class Subscription(Position[S]):
    """A position that calls `on_wake` in `wake`. The function must be quick and must not raise."""

    __slots__ = ("_group", "_on_wake")

    def __init__(
        self,
        loop: PollLoop[S],
        seen: Callable[[S], bool] | None,
        client: bytes,
        on_wake: Callable[[], None],
        group: Group,
    ) -> None:
        super().__init__(loop, seen, client)
        self._on_wake = on_wake
        self._group = group

    @property
    def group(self) -> Group:
        """The group that the client named."""
        return self._group

    def wake(self) -> None:
        """Tell the client that the loop has changed."""
        self._on_wake()


class Watcher(Position[S]):
    """A position that one task awaits."""

    __slots__ = ("_ended", "_timer", "_waiting")

    def __init__(self, loop: PollLoop[S], seen: Callable[[S], bool] | None, client: bytes) -> None:
        super().__init__(loop, seen, client)
        self._ended: GatewayError | None = None
        self._waiting: asyncio.Future[None] | None = None
        # One timer for all waits, because each event of thousands of watchers would otherwise create one.
        self._timer = RearmableTimer(loop.clock, self.wake)

    @property
    def group(self) -> Group:
        """Itself: it is alone."""
        return self

    def end(self, error: GatewayError) -> None:
        """Let `next` raise `error`, regardless of the loop."""
        self._ended = error
        self.wake()

    def take(self) -> StateChange[S] | None:
        """Return the change since the last call, or None if there is none.

        Raises:
            GatewayError: The failure of the loop, or the error that `end` was given.
        """
        if self._ended is not None:
            raise self._ended
        return super().take()

    def wake(self) -> None:
        """Let a waiting `next` look at the loop again."""
        # Without a waiting `next`, nothing is lost: the following one looks before it waits.
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def next(self, until: float) -> StateChange[S] | NoChange:
        """Return the next change, or `NoChange` if there is none before `until` (seconds of the clock).

        Raises:
            GatewayError: As in `take`.
        """
        while (changed := self.take()) is None:
            if self.loop.clock.monotonic() >= until:
                return self.no_change()
            self._timer.set(until)
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return changed

    def close(self) -> None:
        """Free the memory of the watcher, such as a large result. Do not call `next` afterwards."""
        self._timer.close()
