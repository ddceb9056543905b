"""Bind all addresses of HOST:PORT, or none."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from gateway.threads import run_detached, wait_done

if TYPE_CHECKING:
    from collections.abc import Sequence

    import grpc

# The longest time for the lookup of a name.
RESOLVE_SECONDS = 5.0
# Attempts for port 0: a port that is free at one address may be taken at another.
PORTS_TRIED = 20
# By RFC 6761, `localhost` is both regardless of the hosts file, and clients try both.
LOOPBACK = ("127.0.0.1", "::1")
# Errors for an address that the machine does not have.
ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})

# The family, and the numeric host with its IPv6 scope.
Address = tuple[socket.AddressFamily, str]


def split(listen: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT, without the brackets of IPv6."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def join_host_port(host: str, port: int) -> str:
    """Return HOST:PORT for a numeric host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def numeric_host(address: tuple[Any, ...]) -> str:
    """Return the numeric host of a socket's address, with its IPv6 scope."""
    return socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]


async def resolve(host: str) -> list[Address]:
    """Return all addresses of a host. Raises `OSError` if there are none, or the lookup takes over 5 seconds."""
    lookup = run_detached("resolve", lambda: _resolve(host))
    if not await wait_done(lookup, RESOLVE_SECONDS):
        raise OSError(errno.ETIMEDOUT, f"the resolver did not respond within {RESOLVE_SECONDS:g} s")
    return lookup.result()


def _resolve(host: str) -> list[Address]:
    names = [host]
    if host.lower() == "localhost":
        names += LOOPBACK
    found: dict[Address, None] = {}
    for name in names:
        for family, _, _, _, address in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM):
            found[family, numeric_host(address)] = None
    return list(found)


def add_ports(
    server: grpc.aio.Server, addresses: Sequence[Address], port: int, credentials: grpc.ServerCredentials | None
) -> int:
    """Make a gRPC server listen at each of the addresses; return the port. Raises `OSError` as `bind` does."""
    # If a name has several addresses, one is enough for grpc, and only its own log has the error of another.
    sockets = bind(addresses, port)
    chosen: int = sockets[0].getsockname()[1]
    hosts = [numeric_host(each.getsockname()) for each in sockets]
    for each in sockets:
        each.close()
    for host in hosts:
        try:
            if credentials is None:
                server.add_insecure_port(join_host_port(host, chosen))
            else:
                server.add_secure_port(join_host_port(host, chosen), credentials)
        except RuntimeError as error:
            raise OSError(errno.EADDRINUSE, f"another process took the port ({host})") from error
    return chosen


def bind(addresses: Sequence[Address], port: int) -> list[socket.socket]:
    """Bind a socket at each of the addresses, all at the same `port`. Port 0 selects one that is free at all of them.

    Addresses that the machine does not have are left out if there are others. `::` includes IPv4.

    Raises:
        OSError: An address is in use or cannot be bound, or none is left.
    """
    for _ in range(PORTS_TRIED - 1):
        try:
            return _bind(addresses, port)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE:
                raise
    return _bind(addresses, port)


def _bind(addresses: Sequence[Address], port: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    with ExitStack() as opened:
        for family, host in addresses:
            try:
                each = opened.enter_context(_bind_one(family, host, port))
            except OSError as error:
                absent = _with_host(error, host, alone=len(addresses) == 1)
                if error.errno not in ABSENT:
                    raise absent from error
                continue
            port = each.getsockname()[1]
            sockets.append(each)
        if not sockets and absent is not None:
            raise absent
        opened.pop_all()
    return sockets


def _bind_one(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Connections that have ended at this port must not delay a new start.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Like gRPC, so that both listeners of a gateway have the same addresses.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4])
    except BaseException:
        made.close()
        raise
    return made


def _with_host(error: OSError, host: str, *, alone: bool) -> OSError:
    problem = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror)
    return OSError(error.errno, problem if alone else f"{problem} ({host})")
