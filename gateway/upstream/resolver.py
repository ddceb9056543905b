"""Names of the upstream, looked up in threads that may hang without harm to anything else."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.threads import run_detached, wait_done

if TYPE_CHECKING:
    from concurrent.futures import Future

# How many lookups may hang at a time in this process. The system's own resolver gives up after 10 to 30 seconds.
MOST_LOOKUPS = 8

_lookups: set[Future[Any]] = set()


class Resolver(AbstractResolver):
    """The system's resolver, with a limit of `seconds` for each lookup.

    asyncio's default executor and uvloop's thread pool have few threads, which lookups that hang would take from all
    else, and the process would wait for them at its end.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As aiohttp has it. Raises `OSError` if there is no address, or none in time."""
        _lookups.difference_update([each for each in _lookups if each.done()])
        if len(_lookups) >= MOST_LOOKUPS:
            raise OSError(errno.EAGAIN, "too many lookups of the resolver hang")
        lookup = run_detached("resolve", lambda: _lookup(host, port, family))
        _lookups.add(lookup)
        if not await wait_done(lookup, self._seconds):
            raise OSError(errno.ETIMEDOUT, "the resolver does not answer")
        return lookup.result()

    async def close(self) -> None:
        """As aiohttp has it."""


def _lookup(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return [
        ResolveResult(
            hostname=host,
            host=socket.getnameinfo(where, numeric)[0],
            port=port,
            family=of,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for of, _, protocol, _, where in socket.getaddrinfo(
            host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    ]
