"""Garbage from peers without a credential: no line above warning, one line per kind, and a status if possible."""

from __future__ import annotations

import asyncio
import itertools
import signal
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode
from hyperframe.frame import DataFrame, PingFrame, SettingsFrame

from gateway.server import defaults
from tests.server.test_process import process
from tests.support.frames import PREFACE, Peer, header_block, headers, message, peer, ping, reset
from tests.support.gateways import TOKEN, running
from tests.support.scraping import fetch, scrape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.server.gateway import Gateway
    from tests.support.upstream import ScriptedUpstream

pytestmark = pytest.mark.slow

JOBS, HEALTH = "/jobgateway.v1.JobService/", "/grpc.health.v1.Health/"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
PATHS = (JOBS + "GetJob", JOBS + "WatchJob", HEALTH + "Check", HEALTH + "Watch", HEALTH + "List", REFLECTION)
INVALID = str(StatusCode.INVALID_ARGUMENT.value[0])
UNREADABLE: Any = b"/\xff\xfe"
NOT_UTF8 = b"\x0a\x02\xff\xfe"
TEST_SECONDS = 60.0
HTTP = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)),
    PREFACE,
    b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text; version=abc\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: \xe9\xff\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /%ff%00\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: a\r\nB: " + b"b" * 100_000 + b"\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
)


async def call(
    address: str, path: Any, *, metadata: Iterable[tuple[Any, Any]] = (), data: bytes | None = b"", **how: bool
) -> None:
    """Send a call, and wait until the server has read all of it."""
    async with peer(address) as raw:
        sent = b"" if data is None else message(1, data, **how)
        await raw.send(headers(1, header_block(path, metadata), end=data is None) + sent + ping(1))
        await raw.until(PingFrame)


async def send_bytes(address: str, data: bytes) -> None:
    """Send bytes and FIN."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        writer.write_eof()
        await reader.read()
    except OSError:
        # The server may close the connection.
        pass
    finally:
        writer.transport.abort()


async def send_garbage(address: str, admin: str) -> None:
    """Send all garbage that is known to produce a log line."""
    for path in PATHS:
        await call(address, path, metadata=[("x-a", b"\xe9")])
        await call(address, path, metadata=[("authorization", b"Bearer \xe9")])
        await call(address, path, metadata=[("x-a-bin", b"!\xe9")])
        await call(address, path, data=NOT_UTF8)
        await call(address, path, data=b"\xff\xff\xff")
        await call(address, path, data=b"\x1f", compressed=True)
        await call(address, path, metadata=[("grpc-encoding", "gzip")], data=b"\x1f", compressed=True)
        await call(address, path, metadata=[("grpc-timeout", "1n")])
        await call(address, path, data=None)
    for path in (HEALTH + "None", "/a/b", "none"):
        await call(address, path)
    for data in (b"\x1a\x02\xff\xfe", b"\x22\x03abc", b"\x2a\x04\x0a\x00\x10\x01", b"\x32\x03abc"):
        await call(address, REFLECTION, data=data)
    for data in HTTP:
        await send_bytes(address, data)
        await send_bytes(admin, data)


async def test_each_kind_of_line_is_logged_once_as_a_warning(upstream: ScriptedUpstream) -> None:
    async with process(upstream) as server, asyncio.timeout(TEST_SECONDS):
        serving = await server.logged("serving")
        for _ in range(3):
            await send_garbage(serving["address"], serving["admin_address"])
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    foreign = [line for line in server.lines if line["event"] != "call"]
    assert {line["level"] for line in server.lines} <= {"info", "warning"}
    complaints = [(line.get("logger"), line["event"], line.get("exception")) for line in foreign]
    assert len(complaints) == len(set(complaints))
    assert "grpc._cython.cygrpc" in {line.get("logger") for line in foreign}


async def test_a_path_that_ends_the_listener_is_only_a_warning(upstream: ScriptedUpstream) -> None:
    async with process(upstream) as server, asyncio.timeout(TEST_SECONDS):
        address = (await server.logged("serving"))["address"]
        async with peer(address) as raw:
            await raw.send(headers(1, header_block(UNREADABLE)))
            await server.logged("listener.restarted")
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert {line["level"] for line in server.lines} <= {"info", "warning"}


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=abc", "application/openmetrics-text; version=."]
)
async def test_an_invalid_accept_header_gets_the_text_format(gateway: Gateway, accept: str) -> None:
    response = await fetch(gateway, "/metrics", headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("method", ["GetJob", "WaitJob", "CancelJob", "SendJob", "RunJob", "WatchJob"])
async def test_a_request_without_a_message_is_refused(
    gateway: Gateway, logged: list[dict[str, object]], method: str
) -> None:
    block = header_block(JOBS + method, [("authorization", f"Bearer {TOKEN}")])
    async with peer(gateway.address) as raw, asyncio.timeout(TEST_SECONDS):
        await raw.send(headers(1, block, end=True))
        got = await raw.ending(1)
    assert (got["grpc-status"], got["grpc-message"]) == (
        INVALID,
        "request: no message came before the stream ended; send exactly one",
    )
    await gateway.wait_idle()
    (line,) = [line for line in logged if line["event"] == "call"]
    assert (line["method"], line["code"], line["reason"]) == (method, "INVALID_ARGUMENT", "REQUEST_INVALID")
    assert (await scrape(gateway))("grpc_server_handled_total", grpc_method=method, grpc_code="InvalidArgument") == 1


def in_handlers(method: str) -> int:
    """Return the number of calls in the handlers of grpc.aio."""
    return sum(each.get_name() == f"HandleExceptions[{JOBS}{method}]" for each in asyncio.all_tasks())


async def calls_in_handlers(method: str, count: int) -> None:
    """Return when grpc.aio has `count` calls in handlers."""
    for _ in itertools.count():
        if in_handlers(method) == count:
            return
        await asyncio.sleep(0)


@pytest.mark.parametrize("method", ["GetJob", "WatchJob"])
@pytest.mark.parametrize("leaves", ["reset", "close", "too large"])
async def test_a_call_that_ends_before_its_message_is_cancelled(
    gateway: Gateway, logged: list[dict[str, object]], method: str, leaves: str
) -> None:
    block = header_block(JOBS + method, [("authorization", f"Bearer {TOKEN}")])
    streams = range(1, 40, 2)
    async with asyncio.timeout(TEST_SECONDS):
        async with peer(gateway.address) as raw:
            await raw.send(b"".join(headers(stream, block) for stream in streams))
            # grpc.aio never sees a call that is reset before.
            await calls_in_handlers(method, len(streams))
            if leaves == "reset":
                await raw.send(b"".join(reset(stream) for stream in streams))
            elif leaves == "too large":
                # The length alone exceeds the limit. The message need not follow.
                too_large = b"\0" + (defaults.MAX_REQUEST_BYTES + 1).to_bytes(4, "big")
                await raw.send(b"".join(DataFrame(stream, too_large).serialize() for stream in streams))
            if leaves != "close":
                await calls_in_handlers(method, 0)
        await calls_in_handlers(method, 0)
    assert [line["code"] for line in logged if line["event"] == "call"] == ["CANCELLED"] * len(streams)


@pytest.mark.parametrize("method", ["Check", "Watch", "List"])
@pytest.mark.parametrize("data", [None, NOT_UTF8 + b"\xff"])
async def test_an_invalid_health_request_is_rejected(gateway: Gateway, method: str, data: bytes | None) -> None:
    block = header_block(HEALTH + method)
    async with peer(gateway.address) as raw, asyncio.timeout(TEST_SECONDS):
        await raw.send(headers(1, block, end=data is None) + (message(1, data) if data else b""))
        assert (await raw.ending(1))["grpc-status"] == INVALID


async def test_a_health_watch_that_is_not_read_delays_no_drain(upstream: ScriptedUpstream) -> None:
    async with running(upstream.url) as gateway, asyncio.timeout(TEST_SECONDS):
        host, _, port = gateway.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        raw = Peer(reader, writer)
        no_window = SettingsFrame(0)
        no_window.settings = {SettingsFrame.INITIAL_WINDOW_SIZE: 0}
        await raw.send(PREFACE + no_window.serialize())
        await raw.until(SettingsFrame)
        await raw.send(SettingsFrame(0, flags=["ACK"]).serialize())
        await raw.send(headers(1, header_block(HEALTH + "Watch")) + message(1, b"") + ping(1))
        await raw.until(PingFrame)
        await call(gateway.address, HEALTH + "Check")
        await gateway.stop(grace=0)
        writer.transport.abort()
