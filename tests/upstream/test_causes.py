"""Why no connection could be made: each cause has a message that says what to check, on both event loops."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trustme
import uvloop

from gateway.errors import UpstreamConnectionLost, UpstreamUnreachable
from gateway.upstream.causes import Step, connect_failure
from tests.support.raw import free_port, tcp_server
from tests.support.transports import PatientTransport, failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from gateway.errors import UpstreamError
    from tests.support.transports import MakeTransport

UNKNOWN = "unknown.test"
# The first address cannot be reached on any machine, because TCP cannot connect to a multicast address.
TWO_ADDRESSES, ADDRESSES = "two.test", ("224.0.0.1", "127.0.0.1")
NO_CONNECTION = "no connection to the upstream could be made: "


class Way(NamedTuple):
    """A way to an upstream."""

    url: str
    tls: ssl.SSLContext | None = None
    proxy: str | None = None


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not ask DNS for the names of these tests."""
    system = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host == UNKNOWN:
            raise socket.gaierror(socket.EAI_NONAME, "a text of the resolver")
        if host == TWO_ADDRESSES:
            return [found for address in ADDRESSES for found in system(address, *args, **kwargs)]
        return system(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@asynccontextmanager
async def nothing_listens() -> AsyncIterator[Way]:
    yield Way(f"http://127.0.0.1:{free_port()}/")


@asynccontextmanager
async def addresses_that_fail_differently() -> AsyncIterator[Way]:
    yield Way(f"http://{TWO_ADDRESSES}:{free_port()}/")


@asynccontextmanager
async def unknown_name() -> AsyncIterator[Way]:
    yield Way(f"http://{UNKNOWN}/")


def certificate(*names: str, trusted: bool = True, host: str = "localhost", **more: Any) -> Any:
    """Return a way to an upstream with a certificate for `names`."""

    @asynccontextmanager
    async def upstream() -> AsyncIterator[Way]:
        authority, client = trustme.CA(), ssl.create_default_context()
        if trusted:
            authority.configure_trust(client)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names, **more).configure_cert(server)
        async with tcp_server(swallow, tls=server) as port:
            yield Way(f"https://{host}:{port}/", client)

    return upstream


def server(reply: bytes, *, scheme: str) -> Any:
    """Return a way to a server without TLS, which closes after `reply`."""

    @asynccontextmanager
    async def upstream() -> AsyncIterator[Way]:
        async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(reply)

        async with tcp_server(respond) as port:
            yield Way(f"{scheme}://127.0.0.1:{port}/")

    return upstream


def proxy(reply: bytes) -> Any:
    """Return a way through a proxy that responds with `reply`."""

    @asynccontextmanager
    async def upstream() -> AsyncIterator[Way]:
        async with server(reply, scheme="http")() as way:
            yield Way("https://upstream.invalid/", proxy=way.url)

    return upstream


def behind(way: Callable[[], AbstractAsyncContextManager[Way]]) -> Any:
    """Return a way through a proxy that `way` leads to."""

    @asynccontextmanager
    async def upstream() -> AsyncIterator[Way]:
        async with way() as found:
            yield Way("https://upstream.invalid/", proxy=found.url)

    return upstream


async def swallow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Read and never reply."""
    while await reader.read(65536):
        pass


PAST = datetime.now(UTC) - timedelta(days=1)
WAYS = {
    "a closed port": (
        nothing_listens,
        "Connection refused",
        "check host and port in JOBGATEWAY_UPSTREAM_URL, and whether the upstream runs",
    ),
    "addresses that fail differently": (
        addresses_that_fail_differently,
        "Network is unreachable, Connection refused",
        "check host and port in JOBGATEWAY_UPSTREAM_URL, and whether the upstream runs",
    ),
    "an unknown name": (
        unknown_name,
        "Name or service not known",
        "check the host in JOBGATEWAY_UPSTREAM_URL, and DNS",
    ),
    "an expired certificate": (
        certificate("localhost", not_before=PAST - timedelta(days=1), not_after=PAST),
        "certificate has expired",
        "renew the certificate of the upstream",
    ),
    "a certificate of the future": (
        certificate("localhost", not_before=PAST + timedelta(days=2)),
        "certificate is not yet valid",
        "check the clocks of both machines",
    ),
    "an unknown authority": (
        certificate("localhost", trusted=False),
        "unable to get local issuer certificate",
        "name the file of its authority in SSL_CERT_FILE",
    ),
    "another host": (
        certificate("other.test"),
        "the certificate is for another host name",
        "check the host in JOBGATEWAY_UPSTREAM_URL",
    ),
    "another address": (
        certificate("localhost", host="127.0.0.1"),
        "the certificate is for another IP address",
        "check the host in JOBGATEWAY_UPSTREAM_URL",
    ),
    "no TLS": (
        server(b"HTTP/1.1 400 Bad Request\r\n\r\n", scheme="https"),
        "the upstream does not speak TLS at this port",
        "check the scheme (http or https) and the port in JOBGATEWAY_UPSTREAM_URL",
    ),
    "an end in the handshake": (
        server(b"", scheme="https"),
        "the other side ended the connection (during the TLS handshake)",
        "check the scheme and the port in JOBGATEWAY_UPSTREAM_URL, and the TLS settings of the upstream",
    ),
    "a proxy that wants credentials": (
        proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
        "the proxy asks for credentials, which the gateway does not have (HTTP 407 to CONNECT)",
        "check the proxy in JOBGATEWAY_UPSTREAM_PROXY_URL, and the host in JOBGATEWAY_UPSTREAM_URL",
    ),
    "a proxy that forbids the host": (
        proxy(b"HTTP/1.1 403 Forbidden\r\n\r\n"),
        "the proxy does not allow this host (HTTP 403 to CONNECT)",
        "check the proxy in JOBGATEWAY_UPSTREAM_PROXY_URL, and the host in JOBGATEWAY_UPSTREAM_URL",
    ),
    "a proxy without upstream": (
        proxy(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"),
        "the proxy could not connect to the upstream (HTTP 502 to CONNECT)",
        "check the proxy in JOBGATEWAY_UPSTREAM_PROXY_URL, and the host in JOBGATEWAY_UPSTREAM_URL",
    ),
    "no proxy": (
        proxy(b"SSH-2.0-OpenSSH_9.2\r\n"),
        "the proxy's response to CONNECT is not HTTP",
        "check host and port in JOBGATEWAY_UPSTREAM_PROXY_URL",
    ),
    "a proxy that hangs up": (
        proxy(b""),
        "the other side ended the connection (by the proxy)",
        "check the proxy in JOBGATEWAY_UPSTREAM_PROXY_URL",
    ),
    "a closed port of a proxy": (
        behind(nothing_listens),
        "Connection refused (by the proxy)",
        "check host and port in JOBGATEWAY_UPSTREAM_PROXY_URL, and whether the proxy runs",
    ),
    "addresses of a proxy that fail differently": (
        behind(addresses_that_fail_differently),
        "Network is unreachable, Connection refused (by the proxy)",
        "check host and port in JOBGATEWAY_UPSTREAM_PROXY_URL, and whether the proxy runs",
    ),
    "an unknown name of a proxy": (
        behind(unknown_name),
        "Name or service not known",
        "check the host in JOBGATEWAY_UPSTREAM_PROXY_URL, and DNS",
    ),
}


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("name", WAYS)
def test_a_failed_connection_names_cause_and_check(loop: Any, name: str) -> None:
    way, cause, check = WAYS[name]

    async def scenario() -> None:
        async with way() as found:
            transport = PatientTransport(tls=found.tls, proxy=found.proxy)
            error = await failure(transport.request("GET", found.url, {}))
            await transport.aclose()
        assert type(error) is UpstreamUnreachable
        assert (error.cause, str(error)) == (cause, f"{NO_CONNECTION}{cause}; {check}")

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


def test_no_attempt_to_connect_is_said_to_be_ended() -> None:
    assert connect_failure(OSError("Multiple exceptions: "), Step.CONNECT, proxy=False).cause == "unknown error"


def test_each_cause_has_its_own_message() -> None:
    assert len({(cause, check) for _, cause, check in WAYS.values()}) == len(WAYS)


async def times_out(transport: PatientTransport, url: str, reached: Callable[[], Awaitable[object]]) -> UpstreamError:
    """Return the error of a request whose time is over when a step is `reached`."""
    exchange = asyncio.create_task(transport.request("GET", url, {}))
    await reached()
    await transport.clock.advance(5)
    return await failure(exchange)


@pytest.mark.parametrize(
    ("through_proxy", "cause"),
    [(False, "no reply in time (during the TLS handshake)"), (True, "no reply in time (by the proxy)")],
    ids=["handshake", "tunnel"],
)
async def test_silence_of_a_server_is_named(make: MakeTransport, *, through_proxy: bool, cause: str) -> None:
    asked = asyncio.Event()

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        asked.set()
        await swallow(reader, writer)

    async with tcp_server(note) as port:
        transport = make(connect=5, proxy=f"http://127.0.0.1:{port}" if through_proxy else None)
        error = await times_out(transport, f"https://127.0.0.1:{port}/", asked.wait)
    assert error.cause == cause


async def test_silence_of_a_network_is_named(make: MakeTransport) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        port = silent.getsockname()[1]

        async def connecting() -> None:
            # SYN_SENT is state 2.
            while not re.search(rf":{port:04X} 02 ", await asyncio.to_thread(Path("/proc/net/tcp").read_text)):  # noqa: ASYNC110
                await asyncio.sleep(0.001)

        # The kernel accepts this connection, and drops later ones because its queue is full.
        with socket.create_connection(("127.0.0.1", port)):
            error = await times_out(make(connect=5), f"http://127.0.0.1:{port}/", connecting)
    assert error.cause == "no reply in time"
    assert "a firewall or network policy" in str(error)


@pytest.mark.parametrize(
    ("reset", "cause"), [(True, "Connection reset by peer"), (False, "the other side ended the connection")]
)
async def test_a_lost_connection_says_who_ended_it(make: MakeTransport, reset: bool, cause: str) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    async with tcp_server(respond) as port:
        error = await failure(make().request("GET", f"http://127.0.0.1:{port}/", {}))
    assert type(error) is UpstreamConnectionLost
    assert (error.cause, str(error)) == (cause, f"the connection to the upstream was lost: {cause}")
