"""Ways to reach the upstream: through a configured proxy, and by a name whose addresses change."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import UpstreamUnreachable
from gateway.upstream import resolver
from gateway.upstream.transport import DNS_SECONDS
from tests.support.clock import settle
from tests.support.gateways import BEARER, SEND, TOKEN, expect_error, running, stub
from tests.support.raw import free_port, tcp_server
from tests.support.transports import TEST_SECONDS, PatientTransport, failure
from tests.support.upstream import RUNNING, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.server.gateway import Gateway
    from tests.support.transports import MakeTransport
    from tests.support.upstream import ScriptedUpstream

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


async def read(gateway: Gateway) -> pb.Job:
    async with stub(gateway) as jobs:
        return await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)


# The proxy


@dataclass
class Proxy:
    """The requests of a proxy, and all bytes from its clients."""

    reply: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    stays_open: bool = False
    asked: list[bytes] = field(default_factory=list)
    passed: bytearray = field(default_factory=bytearray)
    url: str = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head)
        method, target, _ = head.split(b" ", 2)
        if method != b"CONNECT":
            writer.write(answer(200, {"uid": 42, "status": "running", "kind": "from the proxy"}))
            return
        writer.write(self.reply)
        await writer.drain()
        if self.stays_open:
            await reader.read()
        if self.stays_open or b" 200 " not in self.reply:
            return
        host, _, port = target.decode().rpartition(":")
        onward, to = await asyncio.open_connection(host, int(port))
        try:
            await asyncio.gather(self._pump(reader, to, self.passed), self._pump(onward, writer, bytearray()))
        finally:
            to.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: bytearray) -> None:
        while data := await reader.read(65536):
            seen += data
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy that opens tunnels, and responds to all other requests itself."""
    made = Proxy()
    async with tcp_server(made.accept) as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made


@dataclass
class Secure:
    """An upstream behind TLS, and the request heads that it read."""

    heads: list[bytes] = field(default_factory=list)
    url: str = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(RUNNING)


@pytest.fixture
async def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Secure]:
    """An upstream whose certificate the gateway trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    made = Secure()
    async with tcp_server(made.accept, tls=context) as port:
        made.url = f"https://localhost:{port}/api"
        yield made


async def test_proxies_of_the_environment_are_ignored(
    secure: Secure, upstream: ScriptedUpstream, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PROXIES:
        monkeypatch.setenv(name, proxy.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    # The client of this test uses them.
    monkeypatch.setenv("no_grpc_proxy", "127.0.0.1")
    upstream.script.append(RUNNING)
    for url in (secure.url, upstream.url.replace("127.0.0.1", "localhost")):
        async with running(url) as gateway:
            assert (await read(gateway)).status == pb.JOB_STATUS_RUNNING
    assert proxy.asked == []


async def test_the_proxy_of_an_https_upstream_sees_no_token(secure: Secure, proxy: Proxy) -> None:
    async with running(secure.url, upstream_proxy_url=proxy.url) as gateway:
        assert (await read(gateway)).status == pb.JOB_STATUS_RUNNING
    (asked,) = proxy.asked
    assert asked.startswith(b"CONNECT localhost:")
    assert proxy.passed, "the job went through it"
    assert TOKEN.encode() not in asked + proxy.passed
    assert b"uthorization" not in asked
    assert TOKEN.encode() in secure.heads[0]


async def test_a_proxy_that_was_named_is_asked_for_a_plain_upstream(proxy: Proxy) -> None:
    async with running("http://upstream.invalid/api", upstream_proxy_url=proxy.url) as gateway:
        assert (await read(gateway)).kind == "from the proxy"
    assert proxy.asked[0].startswith(b"GET http://upstream.invalid/api/jobs/42/ HTTP/1.1\r\n")


@pytest.mark.parametrize("status", [b"403 Forbidden", b"407 Proxy Authentication Required", b"502 Bad Gateway"])
async def test_a_rejected_tunnel_counts_as_not_sent(secure: Secure, proxy: Proxy, status: bytes) -> None:
    proxy.reply = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
    async with running(secure.url, upstream_proxy_url=proxy.url) as gateway, stub(gateway) as jobs:
        failure = await expect_error(jobs.SendJob(SEND, metadata=BEARER))
    assert (failure.code, failure.reason) == (StatusCode.UNAVAILABLE, "UPSTREAM_UNREACHABLE")
    assert secure.heads == []


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 99\r\n\r\n<html>",
        b"HTTP/1.1 502 Bad Gateway\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nand more",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
    ids=["with a body", "without an end", "a success with more", "no HTTP"],
)
async def test_a_refusing_proxy_that_stays_open_is_left(proxy: Proxy, reply: bytes) -> None:
    proxy.reply, proxy.stays_open = reply, True
    transport = PatientTransport(proxy=proxy.url)
    with pytest.raises(UpstreamUnreachable):
        async with asyncio.timeout(TEST_SECONDS):
            await transport.request("GET", "https://upstream.invalid/", {})
    await transport.aclose()


async def test_interim_responses_of_a_proxy_are_skipped(secure: Secure, proxy: Proxy) -> None:
    proxy.reply = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + proxy.reply
    async with running(secure.url, upstream_proxy_url=proxy.url) as gateway:
        assert (await read(gateway)).status == pb.JOB_STATUS_RUNNING


async def test_a_proxy_that_is_not_there_leads_nowhere(secure: Secure) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with running(secure.url, upstream_proxy_url=url) as gateway, stub(gateway) as jobs:
        failure = await expect_error(jobs.SendJob(SEND, metadata=BEARER))
    assert failure.reason == "UPSTREAM_UNREACHABLE"
    assert secure.heads == [], "not past it"


# The name

NAME = "upstream.test"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Addresses that the patched system resolver returns for made-up names."""
    known: dict[str, list[str]] = {}
    system = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        return [found for each in known.get(host, [host]) for found in system(each, port, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@dataclass
class Addresses:
    """Upstreams at one port of two addresses. They count requests, and those that `waits` names wait for each other."""

    counts: Counter[str] = field(default_factory=Counter)
    waits: asyncio.Barrier | None = None
    port: int = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            self.counts[writer.get_extra_info("sockname")[0]] += 1
            if self.waits is not None:
                await self.waits.wait()
            writer.write(RUNNING)


@pytest.fixture
async def addresses(names: dict[str, list[str]]) -> AsyncIterator[Addresses]:
    """Upstreams at 127.0.0.1, the first address of the name, and at 127.0.0.2."""
    names[NAME] = ["127.0.0.1"]
    made = Addresses()
    async with (
        tcp_server(made.accept) as made.port,
        tcp_server(made.accept, host="127.0.0.2", port=made.port),
    ):
        yield made


@pytest.mark.parametrize(("seconds", "went_to"), [(DNS_SECONDS - 1, "127.0.0.1"), (DNS_SECONDS, "127.0.0.2")])
async def test_a_name_that_changes_is_followed_by_new_connections(
    names: dict[str, list[str]], addresses: Addresses, make: MakeTransport, seconds: float, went_to: str
) -> None:
    transport, url = make(), f"http://{NAME}:{addresses.port}/"
    await transport.request("GET", url, {})
    names[NAME] = ["127.0.0.2"]
    await transport.clock.advance(seconds)
    await transport.request("GET", url, {})
    assert addresses.counts == {"127.0.0.1": 2}, "a connection that is open goes on"
    # Of two concurrent requests, one needs a new connection.
    addresses.waits = asyncio.Barrier(2)
    await asyncio.gather(transport.request("GET", url, {}), transport.request("GET", url, {}))
    assert addresses.counts == Counter(["127.0.0.1", "127.0.0.1", "127.0.0.1", went_to])


async def test_a_hanging_resolver_takes_few_threads(
    upstream: ScriptedUpstream, make: MakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = threading.Event()
    hanging = True
    system = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host == NAME and hanging:
            back.wait()
        return system("127.0.0.1" if host == NAME else host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(resolver, "MAX_LOOKUPS", 3)
    upstream.script.append(RUNNING)
    transport, url = make(connect=10), f"http://{NAME}:{upstream.port}/api"
    for number in range(1, 4):
        exchange = asyncio.create_task(transport.request("GET", url, {}))
        await settle()
        assert [each.name for each in threading.enumerate()].count("resolve") == number
        await transport.clock.advance(9)
        assert not exchange.done()
        await transport.clock.advance(1)
        assert type(await failure(exchange)) is UpstreamUnreachable
    for method in ("GET", "GET", "POST"):
        assert type(await failure(transport.request(method, url, {}))) is UpstreamUnreachable
    assert [each.name for each in threading.enumerate()].count("resolve") == 3
    assert upstream.seen == []
    # Other work in threads continues.
    async with asyncio.timeout(TEST_SECONDS):
        await asyncio.to_thread(bool)
    hanging = False
    back.set()
    async with asyncio.timeout(TEST_SECONDS):
        while not upstream.seen:
            with contextlib.suppress(UpstreamUnreachable):
                await transport.request("GET", url, {})


async def test_an_address_that_refuses_is_passed_over(names: dict[str, list[str]], upstream: ScriptedUpstream) -> None:
    names[NAME] = ["127.0.0.2", "127.0.0.1"]
    upstream.script.append(RUNNING)
    async with running(f"http://{NAME}:{upstream.port}/api") as gateway:
        assert (await read(gateway)).status == pb.JOB_STATUS_RUNNING


async def test_beside_an_address_that_is_silent_the_next_is_tried(
    names: dict[str, list[str]], upstream: ScriptedUpstream
) -> None:
    names[NAME] = ["127.0.0.2", "127.0.0.1"]
    upstream.script.append(RUNNING)
    with socket.socket() as silent:
        silent.bind(("127.0.0.2", upstream.port))
        silent.listen(0)
        # The kernel accepts this connection, and drops later ones because its queue is full.
        with socket.create_connection(silent.getsockname()):
            async with running(f"http://{NAME}:{upstream.port}/api") as gateway:
                assert (await read(gateway)).status == pb.JOB_STATUS_RUNNING
