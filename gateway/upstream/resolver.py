"""Name lookups of the upstream, in threads that may hang without affecting anything else."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

from aiohttp.abc import AbstractResolver, ResolveResult

from gateway.threads import run_detached, wait_done

if TYPE_CHECKING:
    from concurrent.futures import Future

# Concurrent lookups in this process. A lookup that hangs ends after 10 to 30 seconds, when the system gives up.
MAX_LOOKUPS = 8

_lookups: set[Future[Any]] = set()


class Resolver(AbstractResolver):
    """The system's resolver, with a limit of `seconds` for each lookup.

    It does not use asyncio's default executor or uvloop's thread pool: they have few threads for all purposes, and the
    process waits for all of them when it exits.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of `host` (overrides aiohttp). Raises `OSError` if there is none, or none in time."""
        _lookups.difference_update([each for each in _lookups if each.done()])
        if len(_lookups) >= MAX_LOOKUPS:
            raise OSError(errno.EAGAIN, "too many lookups hang; is the resolver of this machine reachable?")
        lookup = run_detached("resolve", lambda: _lookup(host, port, family))
        _lookups.add(lookup)
        if not await wait_done(lookup, self._seconds):
            raise OSError(errno.ETIMEDOUT, "the resolver does not respond")
        return lookup.result()

    async def close(self) -> None:
        """Do nothing (overrides aiohttp)."""


def _lookup(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return [
        ResolveResult(
            hostname=host,
            host=socket.getnameinfo(address, numeric)[0],
            port=port,
            family=address_family,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for address_family, _, protocol, _, address in socket.getaddrinfo(
            host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    ]
