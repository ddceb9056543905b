"""The large states of one stream: encoded one after the other, and written in parts in turn."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from gateway.errors import GatewayError, InternalError
from gateway.watch import StateChange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.limits.fair_budget import Reservation
    from gateway.limits.response_memory import ResponseMemory
    from gateway.rpc.codec.events import JobState
    from gateway.rpc.stream_watch import StreamWatch, Turn
    from gateway.threads import WorkerPool


class Part(NamedTuple):
    """A part of a large state, and the memory of its message."""

    watch: StreamWatch
    turn: Turn
    memory: Reservation | None
    taken: asyncio.Future[None]

    def take(self) -> None:
        """Let the next part be made."""
        if not self.taken.done():
            self.taken.set_result(None)


class LargeStates:
    """Offers one part at a time, so that only that one is in memory next to the results themselves.

    The states take turns too. There is one task, and only while there are large states.

    Args:
        memory: Holds the messages over 256 KiB.
        owner: The owner of this memory.
        workers: Encode the states.
        offer: Gets each part, and calls its `take` later.
        fail: Ends a watch whose state cannot be encoded.
    """

    def __init__(
        self,
        memory: ResponseMemory,
        owner: bytes,
        workers: WorkerPool,
        offer: Callable[[Part], None],
        fail: Callable[[StreamWatch, GatewayError], None],
    ) -> None:
        self._memory = memory
        self._owner = owner
        self._workers = workers
        self._offer = offer
        self._fail = fail
        # The states in the order of their parts; iterators once they are encoded.
        self._states: OrderedDict[StreamWatch, StateChange[JobState] | Iterator[Turn]] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def add(self, watch: StreamWatch, change: StateChange[JobState]) -> None:
        """Write a state after the next parts of the others."""
        self._states[watch] = change
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def remove(self, watch: StreamWatch) -> None:
        """Write no more parts for a watch that has ended."""
        self._states.pop(watch, None)

    def close(self) -> None:
        """Stop, and release the functions, because their owner holds these states."""
        self._states.clear()
        self._offer = self._fail = _ignore
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while self._states:
            watch, state = self._states.popitem(last=False)
            try:
                parts = await watch.parts(state, self._workers) if isinstance(state, StateChange) else state
                turn = next(parts)
                # Chunks are small, but an error may have values of 256 KiB.
                memory = None if turn.change is None else await self._memory.acquire(self._owner, len(turn.event))
            except GatewayError as error:
                self._fail(watch, error)
                continue
            except Exception as error:  # noqa: BLE001 - the other jobs of the stream go on
                defect = InternalError("a state could not be encoded")
                defect.__cause__ = error
                self._fail(watch, defect)
                continue
            part = Part(watch, turn, memory, asyncio.get_running_loop().create_future())
            try:
                self._offer(part)
                await part.taken
            except asyncio.CancelledError:
                if memory is not None and not part.taken.done():
                    memory.release()
                raise
            if turn.change is None and watch.subscription is not None:
                self._states[watch] = parts
        self._task = None


def _ignore(*_: object) -> None:
    pass
