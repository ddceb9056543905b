"""Names of the upstream, looked up in threads that may hang without harm to anything else."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from typing import TYPE_CHECKING, Any

from gateway.threads import run_detached, wait_done

if TYPE_CHECKING:
    from concurrent.futures import Future

# How many lookups may hang at a time in this process. The system's own resolver gives up after 10 to 30 seconds.
MOST_LOOKUPS = 8

# As `socket.getaddrinfo` returns it.
Address = tuple[int, int, int, str, tuple[Any, ...]]

_lookups: set[Future[Any]] = set()


class Resolver:
    """The system's resolver, with a limit of `timeout_seconds` for each lookup; keeps addresses for `keep_seconds`.

    asyncio's default executor and uvloop's thread pool have few threads. Lookups that hang would take them from
    everything else, and the process would wait for them at its end.
    """

    def __init__(self, timeout_seconds: float, keep_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._keep_seconds = keep_seconds
        self._known: dict[tuple[str, int], tuple[float, deque[Address]]] = {}
        self._running: dict[tuple[str, int], asyncio.Task[deque[Address]]] = {}

    async def resolve(self, host: str, port: int) -> list[Address]:
        """Return the addresses of a host, in another order each time if there are several.

        Raises:
            OSError: There is no address, or none in time.
        """
        name = (host, port)
        until, addresses = self._known.get(name, (0.0, None))
        if addresses is None or until <= asyncio.get_running_loop().time():
            addresses = await self._look_up(name)
        found = list(addresses)
        addresses.rotate(-1)
        return found

    async def _look_up(self, name: tuple[str, int]) -> deque[Address]:
        # One lookup for all that ask at the same time. It goes on if one of them leaves.
        task = self._running.get(name)
        if task is None:
            task = self._running[name] = asyncio.create_task(self._find(name))
            task.add_done_callback(lambda done: self._finished(name, done))
        return await asyncio.shield(task)

    def _finished(self, name: tuple[str, int], task: asyncio.Task[deque[Address]]) -> None:
        del self._running[name]
        if not task.cancelled():
            # Also if no one waits any more, so that asyncio does not log it.
            task.exception()

    async def _find(self, name: tuple[str, int]) -> deque[Address]:
        _lookups.difference_update([each for each in _lookups if each.done()])
        if len(_lookups) >= MOST_LOOKUPS:
            raise OSError(errno.EAGAIN, "too many lookups of the resolver hang")
        lookup = run_detached("resolve", lambda: deque(_getaddrinfo(*name)))
        _lookups.add(lookup)
        if not await wait_done(lookup, self._timeout_seconds):
            raise OSError(errno.ETIMEDOUT, "the resolver does not answer")
        addresses = lookup.result()
        self._known[name] = (asyncio.get_running_loop().time() + self._keep_seconds, addresses)
        return addresses


def _getaddrinfo(host: str, port: int) -> list[Address]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG))
