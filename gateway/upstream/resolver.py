"""Name lookups of the upstream, in threads that may hang without affecting anything else."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from gateway.threads import run_detached, wait

if TYPE_CHECKING:
    from concurrent.futures import Future

    from gateway.clock import Clock
    from gateway.time_limits import TimeLimits

# Concurrent lookups in this process. A lookup that hangs ends after 10 to 30 seconds, when the system gives up.
MAX_LOOKUPS = 8

# As `socket.getaddrinfo` returns it.
Address = tuple[int, int, int, str, tuple[Any, ...]]

_lookups: set[Future[Any]] = set()


class Resolver:
    """The system's resolver.

    It does not use asyncio's default executor or uvloop's thread pool: they have few threads for all purposes, and the
    process waits for all of them when it exits.

    Args:
        clock: measures how long addresses are used again.
        time_limits: limit the lookups.
        timeout_seconds: the limit of each lookup.
        keep_seconds: how long addresses are used again.
    """

    def __init__(self, clock: Clock, time_limits: TimeLimits, timeout_seconds: float, keep_seconds: float) -> None:
        self._clock = clock
        self._time_limits = time_limits
        self._timeout_seconds = timeout_seconds
        self._keep_seconds = keep_seconds
        self._known: dict[tuple[str, int], tuple[float, deque[Address]]] = {}
        self._running: dict[tuple[str, int], asyncio.Task[deque[Address]]] = {}

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return the addresses of `host`, beginning with another one each time.

        Raises:
            OSError: there is no address, or none in time.
        """
        until, addresses = self._known.get((host, port), (0.0, None))
        if addresses is None or until <= self._clock.monotonic():
            addresses = await self._look_up((host, port))
        found = list(addresses)
        addresses.rotate(-1)
        return found

    async def _look_up(self, name: tuple[str, int]) -> deque[Address]:
        # One lookup for all callers at a time. It continues if one of them leaves.
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(self._find(name))
            task.add_done_callback(lambda done: self._finish(name, done))
        return await asyncio.shield(task)

    def _finish(self, name: tuple[str, int], task: asyncio.Task[deque[Address]]) -> None:
        del self._running[name]
        if not task.cancelled():
            # Retrieved in any case, because asyncio logs exceptions that no one retrieves.
            task.exception()

    async def _find(self, name: tuple[str, int]) -> deque[Address]:
        _lookups.difference_update([each for each in _lookups if each.done()])
        if len(_lookups) >= MAX_LOOKUPS:
            raise OSError(errno.EAGAIN, "too many lookups hang; is the resolver of this machine reachable?")
        lookup = run_detached("resolve", lambda: _addresses(*name))
        _lookups.add(lookup)
        try:
            with self._time_limits.until(self._clock.monotonic() + self._timeout_seconds):
                await wait(lookup)
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, "the resolver does not respond") from error
        addresses = deque(lookup.result())
        self._known[name] = (self._clock.monotonic() + self._keep_seconds, addresses)
        return addresses


def _addresses(host: str, port: int) -> list[Address]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG))
