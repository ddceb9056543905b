"""The HTTP server of the admin address: one request after another, and clients that misbehave."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gateway.server.addresses import bind, resolve
from gateway.server.http_messages import MAX_REQUEST_BYTES, Request, RequestParser, Response
from gateway.server.http_server import IDLE_SECONDS, HttpServer
from tests.support.clock import SteppedClock, settle
from tests.support.raw import delivered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GET = b"GET /a?b HTTP/1.1\r\nhost: x\r\n\r\n"
DATE = b"Tue, 14 Nov 2023 22:30:00 GMT"
GRACE = 0.5


class Site:
    """A server whose responses are the text of `answer`, and a gate that delays them."""

    def __init__(self) -> None:
        self.clock = SteppedClock()
        self.server = HttpServer(self._handle, self.clock)
        self.requests: list[Request] = []
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer = b"ok\n"
        self.port = 0

    async def _handle(self, request: Request) -> Response:
        self.requests.append(request)
        self.arrived.set()
        await self.gate.wait()
        if request.path == "/defect":
            raise LookupError("a defect")
        return Response(self.answer)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def all_of(self, data: bytes) -> bytes:
        """Send `data`, and return everything until the server closes the connection."""
        async with self.client() as (reader, writer):
            writer.write(data)
            return await reader.read()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    sockets = bind(await resolve("127.0.0.1"), 0)
    made.port = sockets[0].getsockname()[1]
    await made.server.start(sockets)
    yield made
    made.gate.set()
    await made.server.aclose(0)


async def response_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


async def test_a_connection_has_one_request_after_another(site: Site) -> None:
    async with site.client() as (reader, writer):
        for _ in range(2):
            # Byte by byte, as a slow network brings it.
            for each in GET:
                writer.write(bytes([each]))
                await writer.drain()
            head = b"HTTP/1.1 200 OK\r\nserver: jobgateway\r\ndate: " + DATE
            usual = b"\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 3\r\n\r\nok\n"
            assert await response_of(reader) == head + usual
    assert site.requests == [Request("GET", "/a", "b")] * 2


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"GET /a?b HTTP/1.0\r\n\r\n", id="HTTP/1.0"),
        pytest.param(b"GET /a?b HTTP/1.1\r\nconnection: close\r\n\r\n", id="close"),
        pytest.param(b"GET /a?b HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", id="upgrade"),
        pytest.param(b"GET http://x:1/a?b HTTP/1.1\r\nconnection: close\r\n\r\n", id="of a proxy"),
        pytest.param(GET + b"GET /second HTTP/1.1\r\n\r\n", id="two at a time"),
        pytest.param(GET + b"\0", id="followed by something else"),
    ],
)
async def test_the_last_response_ends_the_connection(site: Site, request_: bytes) -> None:
    received = await site.all_of(request_)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"\r\nconnection: close\r\n\r\nok\n")
    assert site.requests == [Request("GET", "/a", "b")]


async def test_a_second_request_before_the_response_is_dropped(site: Site) -> None:
    site.gate.clear()
    async with site.client() as (reader, writer):
        writer.write(GET)
        await site.arrived.wait()
        writer.write(GET)
        await delivered(writer)
        # The limit is for clients, not for pages.
        await site.clock.advance(IDLE_SECONDS)
        site.gate.set()
        assert (await reader.read()).count(b"HTTP/1.1 ") == 1
    assert len(site.requests) == 1


async def test_a_client_that_closes_its_half_gets_the_response(site: Site) -> None:
    site.gate.clear()
    async with site.client() as (reader, writer):
        writer.write(GET)
        writer.write_eof()
        await site.arrived.wait()
        await delivered(writer)
        site.gate.set()
        assert (await reader.read()).endswith(b"\r\nconnection: close\r\n\r\nok\n")


async def test_half_a_request_gets_no_response(site: Site) -> None:
    async with site.client() as (reader, writer):
        writer.write(GET[:10])
        writer.write_eof()
        assert await reader.read() == b""


async def test_head_has_the_headers_of_get(site: Site) -> None:
    received = await site.all_of(b"HEAD / HTTP/1.0\r\n\r\n")
    assert b"\r\ncontent-length: 3\r\n" in received
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x16\x03\x01\x02\x00", b"not an HTTP/1.1 request\n"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"not an HTTP/1.1 request\n"),
        (b"GET / HTTP/1.1\r\nx: a\r\n b\r\n\r\n", b"not an HTTP/1.1 request\n"),
        (b"GET / HTTP/1.1\r\nx: " + bytes([97]) * MAX_REQUEST_BYTES, b"the request has over 65536 bytes\n"),
        (b"POST / HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n" + bytes(65_536), b"the request has over 65536 bytes\n"),
    ],
)
async def test_other_bytes_get_a_400(site: Site, data: bytes, problem: bytes) -> None:
    received = await site.all_of(data)
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert received.endswith(b"\r\nconnection: close\r\n\r\n" + problem)
    assert site.requests == []


async def test_a_client_that_sends_no_whole_request_is_cut_off(site: Site) -> None:
    async with site.client() as (reader, writer):
        writer.write(GET)
        await response_of(reader)
        await site.clock.advance(IDLE_SECONDS - 1)
        writer.write(GET)
        await response_of(reader)
        writer.write(GET[:10])
        await delivered(writer)
        await site.clock.advance(IDLE_SECONDS - 1)
        writer.write(GET[10:-1])
        await delivered(writer)
        await site.clock.advance(1)
        assert await reader.read() == b""
    assert len(site.requests) == 2


async def test_a_client_that_does_not_read_gets_no_further_response(site: Site) -> None:
    site.answer = bytes(32 << 20)
    async with site.client() as (reader, writer):
        writer.write(GET)
        await site.arrived.wait()
        await settle()
        writer.write(GET)
        await delivered(writer)
        assert len(site.requests) == 1
        for _ in range(2):
            assert len(await response_of(reader)) > len(site.answer)
    assert len(site.requests) == 2


async def test_a_defect_is_a_500_and_reported(site: Site) -> None:
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    received = await site.all_of(b"GET /defect HTTP/1.0\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert received.endswith(b"\r\n\r\ninternal error\n")
    assert [type(each) for each in reported] == [LookupError]


async def test_a_request_in_flight_may_end_while_it_closes(site: Site) -> None:
    site.gate.clear()
    async with site.client() as (idle, _), site.client() as (reader, writer):
        writer.write(GET)
        await site.arrived.wait()
        closing = asyncio.create_task(site.server.aclose(GRACE))
        assert await idle.read() == b""
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", site.port)
        site.gate.set()
        assert (await reader.read()).endswith(b"\r\nconnection: close\r\n\r\nok\n")
        await closing


async def test_a_request_that_does_not_end_is_cut_off(site: Site) -> None:
    site.gate.clear()
    async with site.client() as (reader, writer):
        writer.write(GET)
        await site.arrived.wait()
        closing = asyncio.create_task(site.server.aclose(GRACE))
        await site.clock.advance(GRACE)
        await closing
        assert await reader.read() == b""


def test_a_parser_that_is_closed_needs_no_collection() -> None:
    parser = RequestParser()
    parser.feed(GET)
    parser.close()
    left = weakref.ref(parser)
    del parser
    assert left() is None
