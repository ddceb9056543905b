"""The addresses that HOST:PORT stands for, bound together or not at all."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from gateway.threads import run_detached, wait_done

if TYPE_CHECKING:
    from collections.abc import Sequence

# How long the resolver may take for a name.
RESOLVE_SECONDS = 5.0
# How often another port is tried if a free one of one address is taken at another.
PORTS_TRIED = 20
# `localhost` is both by RFC 6761, whatever the hosts file says, and clients try both.
LOOPBACK = ("127.0.0.1", "::1")
# The machine does not have such an address.
ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})

# The family, and the numeric host with its scope.
Address = tuple[socket.AddressFamily, str]


def split(listen: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT, without the brackets of IPv6."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def joined(host: str, port: int) -> str:
    """Return HOST:PORT for a numeric host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def numeric(where: tuple[Any, ...]) -> str:
    """Return the numeric host of a socket's address, with its scope."""
    return socket.getnameinfo(where, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]


async def resolved(host: str) -> list[Address]:
    """Return all addresses of a host. Raises `OSError` if there are none, or none within `RESOLVE_SECONDS`."""
    lookup = run_detached("resolve", lambda: _resolve(host))
    if not await wait_done(lookup, RESOLVE_SECONDS):
        raise OSError(errno.ETIMEDOUT, f"the resolver does not answer within {RESOLVE_SECONDS:g} s")
    return lookup.result()


def _resolve(host: str) -> list[Address]:
    names = [host]
    if host.lower() == "localhost":
        names += LOOPBACK
    found: dict[Address, None] = {}
    for name in names:
        for family, _, _, _, where in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
            found[family, numeric(where)] = None
    return list(found)


def bound(addresses: Sequence[Address], port: int) -> list[socket.socket]:
    """Bind a socket at each of the addresses, all at the same `port`; 0 is any that is free at all of them.

    Addresses that the machine does not have are left out if there are others. `::` takes IPv4 too.
    Raises `OSError` if one is in use or may not be bound, or if none is left.
    """
    for _ in range(PORTS_TRIED - 1):
        try:
            return _bound(addresses, port)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE:
                raise
    return _bound(addresses, port)


def _bound(addresses: Sequence[Address], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    with ExitStack() as opened:
        for family, host in addresses:
            try:
                each = opened.enter_context(_socket(family, host, port))
            except OSError as error:
                absent = _told(error, host, alone=len(addresses) == 1)
                if error.errno not in ABSENT:
                    raise absent from error
                continue
            port = each.getsockname()[1]
            sockets.append(each)
        if not sockets and absent is not None:
            raise absent
        opened.pop_all()
    return sockets


def _socket(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections that have ended at this port must not hold up a new start.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # As gRPC does it, so that the two listeners of a gateway take the same addresses.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4])
    except BaseException:
        made.close()
        raise
    return made


def _told(error: OSError, host: str, *, alone: bool) -> OSError:
    why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)
    return OSError(error.errno, why if alone else f"{why} ({host})")
