"""Robustness of one HTTP exchange: large headers, stale connections, early and unsolicited responses."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
import time
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import uvloop
from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import (
    GatewayOverloaded,
    UpstreamConnectionLost,
    UpstreamError,
    UpstreamMalformed,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.upstream import http1_connection, paced_input
from gateway.upstream.compression import decoded
from gateway.upstream.response_parser import ResponseParser
from gateway.upstream.share import EventLoopShare
from gateway.upstream.transport import UNREPEATABLE_IDLE_SECONDS
from tests.support.descriptors import no_more_files
from tests.support.gateways import BEARER, running, stub
from tests.support.raw import tcp_server
from tests.support.transports import TEST_SECONDS, PatientTransport, failure
from tests.support.upstream import Connection, ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.transports import MakeTransport

# A limit, in seconds of the transport's clock.
LIMIT = 10.0
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ANN = {"authorization": "Bearer ann"}
BOB = {"authorization": "Bearer bob"}


# Headers


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(b"X: " + b"x" * ((64 << 10) - 8) + b"\r\n", id="one of 64 KiB"),
        pytest.param(b"".join(b"X-%05d: %b\r\n" % (n, b"v" * 54) for n in range(1_000)), id="1,000 lines"),
        pytest.param(b"".join(b"X%d: 1\r\n" % (n % 10) for n in range(8_000)), id="8,000 lines"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_64_kib_of_headers_are_taken(
    make: MakeTransport, upstream: ScriptedUpstream, headers: bytes, method: str
) -> None:
    upstream.script.append(HEAD + headers + b"Content-Length: 2\r\n\r\n{}")
    body = b"{}" if method == "POST" else None
    assert (await make().request(method, upstream.url, {}, body)).body == b"{}"


async def test_64_kib_of_headers_are_taken_in_any_pieces(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    async def reply(connection: Connection) -> None:
        whole = HEAD + b"X: " + b"x" * 60_000 + b"\r\nContent-Length: 2\r\n\r\n{}"
        for start in range(0, len(whole), 1_000):
            await connection.send(whole[start : start + 1_000])
            await asyncio.sleep(0)

    upstream.script.append(reply)
    assert (await make().request("GET", upstream.url, {})).body == b"{}"


async def test_a_204_in_two_pieces_is_complete(
    make: MakeTransport, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    async def reply(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 204 No Content\r\n")
        await connection.delivered()
        await connection.send(b"X: y\r\n\r\n")

    upstream.script.append(reply)
    assert (await make().request("DELETE", upstream.url, {})).status == 204
    assert caplog.records == []


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(HEAD + b"X: " + b"x" * (70 << 10) + b"\r\n\r\n", id="one header"),
        pytest.param(HEAD + b"".join(b"X-%05d: %b\r\n" % (n, b"v" * 90) for n in range(1_000)) + b"\r\n", id="lines"),
        pytest.param(HEAD + b"a:\r\n" * 40_000 + b"\r\n", id="the shortest lines"),
        pytest.param(HEAD + b"X: " + b"x" * (1 << 20), id="a header without end"),
        pytest.param(HEAD + b"X: y\r\n" * 200_000, id="headers without end"),
        pytest.param(b"HTTP/1.1 200 " + b"x" * (1 << 20), id="a reason without end"),
        pytest.param(b"HTTP/1.1 103 E\r\n" + b"X: y\r\n" * 200_000, id="early hints without end"),
        pytest.param(CHUNKED + b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 200_000, id="trailers without end"),
        pytest.param(CHUNKED + b"2;" + b"x" * (1 << 20), id="an extension without end"),
        pytest.param(CHUNKED + b"2;%b\r\n{}\r\n" % (b"x" * 9_000) * 1_000, id="extensions without end"),
    ],
)
async def test_too_many_bytes_besides_the_body_are_malformed(
    make: MakeTransport, upstream: ScriptedUpstream, reply: bytes
) -> None:
    upstream.script.append(reply)
    error = await failure(make().request("POST", upstream.url, {}, b"{}"))
    assert type(error) is UpstreamMalformed
    assert error.may_have_been_sent


async def test_early_hints_and_trailers_are_read_over(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: <%b>\r\n\r\n" % (b"x" * 30_000)
    trailers = b"".join(b"X-%d: 1\r\n" % number for number in range(300))
    upstream.script.append(hints * 20 + CHUNKED + b"2\r\n{}\r\n0\r\n" + trailers + b"\r\n")
    transport = make()
    for _ in range(2):
        assert (await transport.request("GET", upstream.url, {})).body == b"{}"


@pytest.mark.parametrize("head", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 3, b""])
@pytest.mark.parametrize("pause", [False, True])
async def test_silence_after_an_interim_response_is_limited(
    make: MakeTransport, upstream: ScriptedUpstream, head: bytes, pause: bool
) -> None:
    arrived = asyncio.Event()

    async def hang(connection: Connection) -> None:
        for each in [head[:20], head[20:]] if pause else [head]:
            await connection.send(each)
            await connection.delivered()
        arrived.set()
        await connection.gone()

    upstream.on("GET", "/", hang)
    transport = make(read=LIMIT)
    exchange = asyncio.create_task(transport.request("GET", upstream.url + "/", {}))
    await arrived.wait()
    await transport.clock.advance(LIMIT - 1)
    assert not exchange.done()
    await transport.clock.advance(1)
    assert isinstance(await failure(exchange), UpstreamTimeout)


# Connections closed while idle


class Stale:
    """An upstream whose first `closing` connections respond once, and close with `how` at the second request.

    `count`: the requests of each connection.
    """

    def __init__(self, how: Callable[[asyncio.StreamWriter], None], closing: int = 1) -> None:
        self.how = how
        self.closing = closing
        self.count: list[int] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.count)
        self.count.append(0)
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"content-length: 2" in head.lower():
                await reader.readexactly(2)
            self.count[number] += 1
            if self.count[number] > 1 and number < self.closing:
                self.how(writer)
                return
            writer.write(answer(200, {"n": number}))
            await writer.drain()


def fin(_: asyncio.StreamWriter) -> None:
    return


def rst(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def a_byte(writer: asyncio.StreamWriter) -> None:
    writer.write(b"H")


@pytest.mark.parametrize("how", [fin, rst])
async def test_a_read_that_meets_a_close_is_repeated_once(make: MakeTransport, how: Any) -> None:
    stale = Stale(how)
    transport = make()
    async with tcp_server(stale.accept) as port:
        url = f"http://127.0.0.1:{port}/"
        await transport.request("GET", url, {})
        assert (await transport.request("GET", url, {})).body == b'{"n": 1}'
    assert stale.count == [2, 1], "one more request, on a fresh connection"


async def test_the_second_attempt_takes_no_other_kept_connection(make: MakeTransport) -> None:
    stale = Stale(fin, closing=2)
    transport = make()
    async with tcp_server(stale.accept) as port:
        url = f"http://127.0.0.1:{port}/"
        await asyncio.gather(transport.request("GET", url, {}), transport.request("GET", url, {}))
        assert stale.count == [1, 1]
        assert (await transport.request("GET", url, {})).body == b'{"n": 2}'
    assert sorted(stale.count) == [1, 1, 2]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_only_a_read_is_repeated(make: MakeTransport, method: str) -> None:
    stale = Stale(fin)
    transport = make()
    body = b"{}" if method == "POST" else None
    async with tcp_server(stale.accept) as port:
        url = f"http://127.0.0.1:{port}/"
        await transport.request(method, url, {}, body)
        assert type(await failure(transport.request(method, url, {}, body))) is UpstreamConnectionLost
    assert stale.count == [2]


async def test_a_read_whose_response_had_begun_is_not_repeated(make: MakeTransport) -> None:
    stale = Stale(a_byte)
    transport = make()
    async with tcp_server(stale.accept) as port:
        url = f"http://127.0.0.1:{port}/"
        await transport.request("GET", url, {})
        assert type(await failure(transport.request("GET", url, {}))) is UpstreamConnectionLost
    assert stale.count == [2]


async def test_a_read_on_a_fresh_connection_is_not_repeated(make: MakeTransport) -> None:
    requests = 0

    async def accept(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1

    async with tcp_server(accept) as port:
        assert type(await failure(make().request("GET", f"http://127.0.0.1:{port}/", {}))) is UpstreamConnectionLost
    assert requests == 1


@pytest.mark.parametrize(("hangs", "kind"), [(False, UpstreamConnectionLost), (True, UpstreamTimeout)])
async def test_a_read_is_made_no_third_time_and_both_share_the_time(
    make: MakeTransport, hangs: bool, kind: type[UpstreamError]
) -> None:
    requests = 0
    second, third, close = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1
        if requests == 1:
            writer.write(answer(200, {}))
            await reader.readuntil(b"\r\n\r\n")
            requests += 1
            second.set()
            await close.wait()
        else:
            third.set()
            if hangs:
                await reader.read()

    transport = make(total=LIMIT)
    async with tcp_server(accept) as port:
        url = f"http://127.0.0.1:{port}/"
        await transport.request("GET", url, {})
        exchange = asyncio.create_task(transport.request("GET", url, {}))
        await second.wait()
        await transport.clock.advance(LIMIT - 1)
        close.set()
        await third.wait()
        await transport.clock.advance(1)
        assert type(await failure(exchange)) is kind
    assert requests == 3


async def test_a_kept_connection_that_was_closed_is_not_used(make: MakeTransport) -> None:
    """A POST is safe too if the close arrived before the connection was chosen, even if the loop has not read it."""
    closed = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(answer(201, {}))
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    transport = make()
    async with tcp_server(accept) as port:
        for _ in range(20):
            assert (await transport.request("POST", f"http://127.0.0.1:{port}/", {}, b"{}")).status == 201
            await closed.wait()
            closed.clear()


async def test_only_a_read_uses_a_connection_that_was_idle_for_long(make: MakeTransport) -> None:
    upstream = Stale(fin, closing=0)
    transport = make()
    async with tcp_server(upstream.accept) as port:
        url = f"http://127.0.0.1:{port}/"
        await transport.request("GET", url, {})
        await transport.clock.advance(UNREPEATABLE_IDLE_SECONDS)
        await transport.request("DELETE", url, {})
        assert upstream.count == [2]
        await transport.clock.advance(UNREPEATABLE_IDLE_SECONDS + 0.1)
        await transport.request("GET", url, {})
        assert upstream.count == [3]
        await transport.clock.advance(UNREPEATABLE_IDLE_SECONDS + 0.1)
        await transport.request("DELETE", url, {})
    assert upstream.count == [3, 1]


async def test_idle_connections_of_vanished_credentials_are_closed(make: MakeTransport) -> None:
    closed = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(200, {}))
        assert await reader.read() == b""
        closed.set()

    transport = make(idle=LIMIT)
    async with tcp_server(accept) as port, asyncio.timeout(TEST_SECONDS):
        await transport.request("GET", f"http://127.0.0.1:{port}/", ANN)
        await transport.clock.advance(LIMIT)
        await closed.wait()


# Early responses

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def answer_early(server: socket.socket, times: int, how: str, tls: ssl.SSLContext | None = None) -> None:
    """Respond as soon as a request starts, and close with most of it unread; blocks, so it runs in a thread."""
    for number in range(times):
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection if tls is None else tls.wrap_socket(connection, server_side=True) as peer:
            peer.recv(1_000)
            head = b"HTTP/1.1 %d Early\r\nContent-Length: 16\r\nConnection: close\r\n\r\n"
            peer.sendall(head % (401, 413, 404)[number % 3] + b'{"detail": "no"}')
            if how == "rst":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["fin", "rst"])
@pytest.mark.parametrize("mib", [1, 4, 8])
def test_a_response_before_the_end_of_the_body_counts(loop: str, how: str, mib: int) -> None:
    times = 50

    async def main() -> None:
        transport = PatientTransport()
        with socket.create_server(("127.0.0.1", 0)) as server:
            answering = asyncio.create_task(asyncio.to_thread(answer_early, server, times, how))
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            answers = [await transport.request("POST", url, {}, bytes(mib << 20)) for _ in range(times)]
            await answering
        await transport.aclose()
        assert [each.status for each in answers] == [(401, 413, 404)[number % 3] for number in range(times)]
        assert all(each.body == b'{"detail": "no"}' for each in answers)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


async def test_sending_the_body_stops_when_the_response_arrives(make: MakeTransport) -> None:
    read = 0
    size = 64 << 20

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal read
        read += len(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer(413, {}))
        while data := await reader.read(1 << 16):
            read += len(data)

    async with tcp_server(accept) as port:
        got = await make().request("POST", f"http://127.0.0.1:{port}/", {}, bytes(size))
        assert got.status == 413
    assert read < size / 2


# Unsolicited responses


class Talker:
    """An upstream that sends extra bytes `before` and `after` each response, on the first connection only."""

    def __init__(self, before: bytes = b"", after: bytes = b"") -> None:
        self.before = before
        self.after = after
        self.connections = 0
        self.more = asyncio.Event()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        first = self.connections == 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            own = answer(200, {"connection": self.connections})
            writer.write(self.before + own + self.after if first else own)


STRAY = answer(200, {"whose": "ann's"})


MORE = pytest.mark.parametrize(
    "after",
    [STRAY, STRAY[:10], b"H", b"x", b"\0", STRAY + b"x", b"xx" * 40_000],
    ids=["whole", "part", "a byte", "x", "nul", "whole and x", "much"],
)


@MORE
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_bytes_after_a_response_end_the_connection(make: MakeTransport, after: bytes, method: str) -> None:
    talker = Talker(after=after)
    transport = make()
    body = b"{}" if method == "POST" else None
    async with tcp_server(talker.accept) as port:
        url = f"http://127.0.0.1:{port}/"
        assert (await transport.request(method, url, ANN, body)).body == b'{"connection": 1}'
        assert (await transport.request(method, url, ANN, body)).body == b'{"connection": 2}'


async def test_a_tls_connection_that_is_closing_can_be_aborted() -> None:
    """The transport of asyncio fails if it is closed twice and then used."""
    authority = trustme.CA()
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_tls)
    client_tls = ssl.create_default_context()
    authority.configure_trust(client_tls)
    aborted, closed = asyncio.Event(), asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(200, {}) + STRAY)
        # Without this, the end of TLS would be answered, and the connection be closed before it is aborted.
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await aborted.wait()
        writer.transport.abort()
        closed.set()

    transport = PatientTransport(tls=client_tls)
    async with tcp_server(accept, tls=server_tls) as port, asyncio.timeout(TEST_SECONDS):
        assert (await transport.request("GET", f"https://127.0.0.1:{port}/", ANN)).status == 200
        await transport.aclose()
        aborted.set()
        await closed.wait()


@pytest.mark.parametrize("head", [b"HTTP/1.1 103 Early Hints\r\nX: 1\r\n\r\n", b""])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (answer(201, {"uid": 5}), b'{"uid": 5}'),
        (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", b"{}"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
    ids=["length", "chunks", "empty"],
)
async def test_a_response_counts_regardless_of_what_follows(
    make: MakeTransport, upstream: ScriptedUpstream, head: bytes, answer: bytes, body: bytes
) -> None:
    upstream.script.append(head + answer + b"xx")
    assert (await make().request("POST", upstream.url, {}, b"{}")).body == body


async def test_an_incomplete_unreadable_response_is_malformed(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    upstream.script.append(CHUNKED + b"2\r\n{}\r\nno chunk\r\n")
    assert type(await failure(make().request("GET", upstream.url, {}))) is UpstreamMalformed


@pytest.mark.parametrize("stale", [STRAY, answer(404, {}), b"HTTP/1.1 204 No Content\r\n\r\n"], ids=[200, 404, 204])
@pytest.mark.parametrize("cut", [None, 30, -5, 1])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_two_responses_on_a_reused_connection_do_not_count(
    make: MakeTransport, stale: bytes, cut: int | None, method: str
) -> None:
    """The first response may belong to an earlier request. `cut`: how much of the second arrives with it."""
    requests: list[int] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(0)
        number = len(requests)
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"content-length: 2" in head.lower():
                await reader.readexactly(2)
            requests[number - 1] += 1
            own = answer(200, {"connection": number})
            writer.write(stale + own[:cut] if requests[number - 1] > 1 else own)

    transport = make()
    body = b"{}" if method == "POST" else None
    async with tcp_server(accept) as port:
        url = f"http://127.0.0.1:{port}/"
        await transport.request(method, url, ANN, body)
        if method == "GET":
            assert (await transport.request(method, url, ANN)).body == b'{"connection": 2}'
            assert requests == [2, 1]
        else:
            error = await failure(transport.request(method, url, ANN, body))
            assert (type(error), error.may_have_been_sent) == (UpstreamMalformed, True)
            assert requests == [2]


@pytest.mark.parametrize("status", [200, 404])
async def test_more_bytes_spoil_a_large_response_on_reuse(make: MakeTransport, status: int) -> None:
    """The headers and most of the body are read before the rest arrives together with another response."""
    requests: list[int] = []
    large = answer(status, raw=b"{%b}" % (b" " * 777_777))

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(0)
        number = len(requests)
        while True:
            await reader.readuntil(b"\r\n\r\n")
            requests[number - 1] += 1
            own = answer(200, {"connection": number})
            writer.write(large + own if requests[number - 1] > 1 else own)

    transport = make()
    async with tcp_server(accept) as port:
        url = f"http://127.0.0.1:{port}/"
        await transport.request("GET", url, ANN)
        assert (await transport.request("GET", url, ANN)).body == b'{"connection": 2}'


@pytest.mark.parametrize("stray", [STRAY, STRAY[:10], b"\r\n"], ids=["whole", "part", "an empty line"])
async def test_unread_bytes_end_an_idle_connection(make: MakeTransport, stray: bytes) -> None:
    connections: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(200, {"connection": len(connections)}))

    transport = make()
    async with tcp_server(accept) as port:
        url = f"http://127.0.0.1:{port}/"
        await transport.request("GET", url, ANN)
        # In one iteration of the loop, so that the kernel has the bytes but the loop has not read them.
        connections[0].write(stray)
        assert (await transport.request("GET", url, ANN)).body == b'{"connection": 2}'


async def test_a_success_before_the_end_of_the_request_is_rejected(make: MakeTransport) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(answer(201, {"uid": 1}))
        await reader.readuntil(b"\r\n\r\n")
        # Late, and a second time.
        writer.write(answer(201, {"uid": 1}))
        await reader.read(1 << 20)
        await reader.read()

    transport = make()
    async with tcp_server(accept) as port:
        url = f"http://127.0.0.1:{port}/"
        await transport.request("POST", url, ANN, b"{}")
        error = await failure(transport.request("POST", url, ANN, bytes(64 << 20)))
    assert type(error) is UpstreamMalformed
    assert error.may_have_been_sent


async def test_a_late_response_never_reaches_another_credential(make: MakeTransport) -> None:
    """A kept connection is used only by the credential that opened it."""
    connections: dict[int, set[bytes]] = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = connections.setdefault(len(connections), set())
        last = b""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            token = head.lower().partition(b"authorization: bearer ")[2].partition(b"\r\n")[0]
            seen.add(token)
            # The response to the previous request instead of this one.
            writer.write(answer(200, raw=last or token))
            last = token

    transport = make()
    async with tcp_server(accept) as port:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(10):
            assert (await transport.request("GET", url, ANN)).body == b"ann"
            assert (await transport.request("GET", url, BOB)).body == b"bob"
    assert sorted(connections.values(), key=sorted) == [{b"ann"}, {b"bob"}]


async def test_idle_connections_make_room_for_those_of_others(make: MakeTransport) -> None:
    opened = closed = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened, closed
        opened += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer(200, {}))
        finally:
            closed += 1

    transport = make(max_connections=4)
    async with tcp_server(accept) as port:
        url = f"http://127.0.0.1:{port}/"
        for number in range(50):
            await transport.request("GET", url, {"authorization": f"Bearer {number}"})
            assert opened - closed <= 5, "the one that is about to close counts here"
        assert opened == 50
        await transport.request("GET", url, {"authorization": "Bearer 49"})
        assert opened == 50, "the youngest are kept"


@pytest.mark.parametrize(
    "body", [b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"]
)
async def test_a_204_with_a_body_counts(make: MakeTransport, body: bytes) -> None:
    connections = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(200, {}))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n" + body)

    transport = make()
    async with tcp_server(accept) as port:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(2):
            await transport.request("GET", url, ANN)
            assert (await transport.request("DELETE", url, ANN)).status == 204
    assert connections == 2, "one with excess is not used again"


@pytest.mark.parametrize("name", [b"Transfer-Encoding: Chunked", b"Transfer-Encoding : chunked"])
async def test_a_cut_response_is_not_complete(make: MakeTransport, upstream: ScriptedUpstream, name: bytes) -> None:
    async def cut(connection: Connection) -> None:
        await connection.send(HEAD + name + b"\r\n\r\n2\r\n{}\r\n")

    upstream.script.append(cut)
    assert type(await failure(make().request("GET", upstream.url, {}))) in (UpstreamConnectionLost, UpstreamMalformed)


# The share of the event loop


def test_large_pieces_never_rest() -> None:
    share, now = EventLoopShare(0.0), 0.0
    for _ in range(10_000):
        now += 0.0005
        share.spend(0.0005, now, 256 << 10)
        assert share.rest(now) is None


def test_tiny_pieces_take_a_quarter_of_the_time() -> None:
    share, now, busy = EventLoopShare(0.0), 0.0, 0.0
    while busy < 1.0:
        busy += 0.002
        now += 0.002
        share.spend(0.002, now, 200)
        rest = share.rest(now) or 0
        assert rest < 0.05
        now += rest
    assert 0.2 < busy / now < 0.3


def test_a_response_that_waits_anyway_never_pauses() -> None:
    share, now = EventLoopShare(0.0), 0.0
    for _ in range(1_000):
        now += 0.01
        share.spend(0.001, now, 1)
        assert not share.rest(now)


def in_chunks_of(size: int, total: int) -> bytes:
    return CHUNKED + (b"%x\r\n%b\r\n" % (size, b"x" * size)) * (total // size) + b"0\r\n\r\n"


TINY = {
    "1 byte": in_chunks_of(1, 256 << 10),
    "3 bytes": in_chunks_of(3, 512 << 10),
    "without end": in_chunks_of(1, 256 << 10)[:-5],
}


class Costly:
    """Parsing that costs a fixed CPU time per byte, so that the load of the machine does not count.

    Attributes:
        busy: the CPU time of all parsing, in seconds.
        iteration: the number of the loop's iteration; the test counts.
        parsed: the bytes parsed in each iteration.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.busy = 0.0
        self.iteration = 0
        self.parsed: Counter[int] = Counter()
        costs = self

        class CostlyParser(ResponseParser):
            def feed(self, data: bytes) -> None:
                costs.busy += len(data) * 200e-9
                costs.parsed[costs.iteration] += len(data)
                super().feed(data)

        monkeypatch.setattr(http1_connection, "ResponseParser", CostlyParser)
        monkeypatch.setattr(paced_input, "time", SimpleNamespace(thread_time=lambda: self.busy))

    async def count_iterations(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.iteration += 1


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("shape", TINY)
def test_a_response_in_tiny_chunks_leaves_the_loop_to_others(
    monkeypatch: pytest.MonkeyPatch, loop: str, shape: str
) -> None:
    costs = Costly(monkeypatch)

    async def read() -> None:
        async with at_once(TINY[shape]) as url:
            transport = PatientTransport()
            counting = asyncio.create_task(costs.count_iterations())
            with contextlib.suppress(UpstreamConnectionLost):
                answered = await transport.request("GET", url, {})
                assert answered.body == b"x" * answered.body.count(b"x")
                assert len(answered.body) >= 256 << 10
            counting.cancel()
            await transport.aclose()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(read())
    assert costs.parsed.total() >= len(TINY[shape])
    # One read of the socket has up to 256 KiB.
    assert max(costs.parsed.values()) <= 64 << 10


@pytest.mark.parametrize("shape", ["1 byte", "3 bytes"])
async def test_a_response_in_tiny_chunks_takes_a_quarter_of_the_loop(
    make: MakeTransport, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    costs = Costly(monkeypatch)
    async with at_once(TINY[shape]) as url:
        began = time.monotonic()
        await make().request("GET", url, {})
        took = time.monotonic() - began
    assert costs.busy > 0.2
    # Without a limit, the response would take far less time than its parsing costs here.
    assert costs.busy / took < 0.3


@contextlib.asynccontextmanager
async def at_once(reply: bytes) -> AsyncIterator[str]:
    """An upstream that responds to one request and closes, in a thread, so that its own work is not counted."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = asyncio.create_task(asyncio.to_thread(serve))
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        await serving


@pytest.mark.parametrize("count", [101, 20_000])
async def test_interim_responses_without_end_are_malformed(
    make: MakeTransport, upstream: ScriptedUpstream, count: int
) -> None:
    upstream.script.append(b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * count + answer(200, {}))
    assert type(await failure(make().request("GET", upstream.url, {}))) is UpstreamMalformed


async def test_interim_responses_of_many_bytes_are_malformed(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: %b\r\n\r\n" % (b"a" * 60_000)
    upstream.script.append(hint * 20 + answer(200, {}))
    assert type(await failure(make().request("GET", upstream.url, {}))) is UpstreamMalformed


async def test_empty_gzip_members_cost_no_more_than_their_bytes() -> None:
    members = gzip.compress(b"") * 10_000

    async def pieces() -> AsyncIterator[bytes]:
        yield members

    parts = [part async for part in decoded(pieces(), "gzip")]
    assert b"".join(parts) == b""
    assert len(parts) < 100, "not a turn of the loop for each"


# Shortages of the gateway


async def test_a_shortage_of_files_is_reported_as_the_gateways(
    make: MakeTransport, upstream: ScriptedUpstream, logged: list[dict[str, object]]
) -> None:
    transport = make()
    with no_more_files():
        for _ in range(3):
            error = await failure(transport.request("POST", upstream.url, {}, b"{}"))
            assert type(error) is GatewayOverloaded
            assert not error.may_have_been_sent
            assert error.transient
    assert [each["event"] for each in logged if each["log_level"] == "error"] == ["gateway.overloaded"], "not for each"
    upstream.script.append(answer(201, {"uid": 1}))
    assert (await transport.request("POST", upstream.url, {}, b"{}")).status == 201
    assert len(upstream.seen) == 1


async def test_a_shortage_of_files_upstream_is_not_the_gateways(make: MakeTransport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert type(await failure(make().request("GET", f"http://127.0.0.1:{port}/", {}))) is UpstreamUnreachable


# Through the complete gateway


async def test_a_close_after_the_delete_does_not_hide_the_state() -> None:
    requests: list[bytes] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            requests.append(head.split(b" ")[0])
            if len(requests) > 1 and requests[-2:] == [b"DELETE", b"GET"] and not closed:
                closed.append(writer)
                return
            deleted = head.startswith(b"DELETE")
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n" if deleted else answer(200, CANCELLED))

    closed: list[asyncio.StreamWriter] = []
    async with tcp_server(accept) as port, running(f"http://127.0.0.1:{port}") as gateway, stub(gateway) as jobs:
        for _ in range(3):
            closed.clear()
            job = await jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER)
            assert job.status == pb.JOB_STATUS_CANCELLED
    assert requests == [b"DELETE", b"GET", b"GET"] * 3


CANCELLED = {"uid": 42, "status": "cancelled"}
