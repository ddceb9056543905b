"""The checks of the name and of TCP."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from gateway.cli.doctor.findings import Finding, Outcome, ok
from gateway.threads import run_detached, wait_done

if TYPE_CHECKING:
    from gateway.cli.doctor.endpoint import Endpoint

CONNECT_SECONDS = 5.0
LOOKUP_SECONDS = 10.0
# The variables that gRPC's C core reads, the first one first.
_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


class Address(NamedTuple):
    """An address of the gateway."""

    family: int
    host: str
    port: int


async def resolve(endpoint: Endpoint) -> tuple[Finding, list[Address]]:
    """Check that the name has addresses, and return them."""
    # In a daemon thread, so that a lookup that hangs does not delay the end of the command.
    looking = run_detached(
        "doctor-lookup", lambda: socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    )
    problem = f"no answer of the resolver within {LOOKUP_SECONDS:g} s"
    if await wait_done(looking, LOOKUP_SECONDS):
        try:
            found = looking.result()
        except OSError as error:
            problem = error.strerror or str(error)
        except UnicodeError:
            problem = "it is not a valid name"
        else:
            addresses = list(dict.fromkeys(Address(each[0], str(each[4][0]), endpoint.port) for each in found))
            names = ", ".join(each.host for each in addresses)
            same = names == endpoint.host
            return ok("name", f"{names} is an address" if same else f"{endpoint.host} is {names}"), addresses
    finding = Finding(
        "name",
        Outcome.FAIL,
        f"{endpoint.host} does not resolve: {problem}",
        "check the spelling in --target, and the DNS of this machine",
        (f"getent ahosts {endpoint.host}", "cat /etc/resolv.conf"),
    )
    return finding, []


async def connect(endpoint: Endpoint, addresses: list[Address]) -> Finding:
    """Check that each address accepts connections."""
    problems = await asyncio.gather(*map(_connection_problem, addresses))
    failed = [f"{each.host}: {problem}" for each, problem in zip(addresses, problems, strict=True) if problem]
    if not failed:
        return ok("tcp", f"port {endpoint.port} accepts connections" + _each(addresses))
    fix = "start the gateway, or correct the port in --target; this shows the ports on the gateway's machine"
    if all("refused" not in each for each in failed):
        fix = "a firewall, a network policy or a wrong address drops the packets; this shows how far they get"
    paste = ("ss -ltn",) if "start" in fix else (f"tracepath -p {endpoint.port} {endpoint.host}",)
    if len(failed) < len(addresses):
        text = f"{len(failed)} of {len(addresses)} addresses do not accept connections: {'; '.join(failed)}"
        return Finding("tcp", Outcome.WARN, text, "remove the address from DNS, or start the gateway there", paste)
    return Finding("tcp", Outcome.FAIL, f"port {endpoint.port} cannot be reached: {'; '.join(failed)}", fix, paste)


def _each(addresses: list[Address]) -> str:
    return f" at each of {len(addresses)} addresses" if len(addresses) > 1 else ""


async def _connection_problem(address: Address) -> str:
    begun = time.monotonic()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(address.host, address.port, family=address.family)
    except TimeoutError:
        return f"no answer within {time.monotonic() - begun:.0f} s"
    except OSError as error:
        return os.strerror(error.errno) if error.errno else str(error)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""


def environment_proxy(endpoint: Endpoint) -> Finding | None:
    """Return a warning if variables send the calls of gRPC clients to an HTTP proxy."""
    found = next((name for name in _PROXY_VARIABLES if os.environ.get(name)), None)
    exceptions = next((os.environ[name] for name in _EXCEPTIONS if os.environ.get(name)), "")
    suffixes = tuple(each.strip() for each in exceptions.split(",") if each.strip())
    if found is None or endpoint.host.endswith(suffixes):
        return None
    return Finding(
        "proxy",
        Outcome.WARN,
        f"the variable {found} sends gRPC clients of this machine to an HTTP proxy; the other checks connect directly",
        "exclude the gateway, unless it can be reached through that proxy only",
        (f'export no_proxy="$no_proxy,{endpoint.host}"',),
    )
