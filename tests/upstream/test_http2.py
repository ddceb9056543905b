"""Submissions over HTTP/2: certainty about what was processed, limits, and the choice of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import h2.events
import h2.settings
import pytest
import uvloop

from gateway.errors import (
    UpstreamConnectionLost,
    UpstreamMalformed,
    UpstreamResponseTooLarge,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.limits.fair_budget import FairBudget
from gateway.server.defaults import READ_IDLE_SECONDS
from gateway.upstream.http2_connection import Http2Connection
from tests.support.gateways import BEARER, GET_JOB, SEND, running, stub
from tests.support.http2 import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PING,
    REFUSED_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Peer,
    Request,
    client_tls,
    frame,
    goaway,
    http2_upstream,
)
from tests.support.raw import tcp_server
from tests.support.transports import TEST_SECONDS, PatientTransport, failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

    from tests.support.http2 import Http2Upstream

MIB = 1 << 20
# A limit, in seconds of the transport's clock.
LIMIT = 10.0


@contextlib.asynccontextmanager
async def posting(
    serve: Callable[[Peer], Awaitable[None]], **options: Any
) -> AsyncIterator[tuple[Http2Upstream, PatientTransport]]:
    """Run an upstream, and a transport that trusts it."""
    async with http2_upstream(serve) as upstream:
        transport = PatientTransport(tls=client_tls(upstream.authority), **options)
        try:
            async with asyncio.timeout(TEST_SECONDS):
                yield upstream, transport
        finally:
            await transport.aclose()


async def echo(peer: Peer) -> None:
    while True:
        request = await peer.request()
        await peer.respond(request.stream, body=bytes(request.body))


# The protocol


async def test_a_post_arrives_as_it_was_sent() -> None:
    seen: list[Request] = []

    async def serve(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.respond(seen[0].stream, more=[(b"location", b"/jobs/7/"), (b"x-other", b"1")])
        await peer.until_gone()

    async with posting(serve) as (upstream, transport):
        response = await transport.request("POST", upstream.url + "/a?b=c", {"authorization": "Bearer x"}, b"{}")
    assert (response.status, response.body, response.location) == (201, b"{}", "/jobs/7/")
    assert bytes(seen[0].body) == b"{}"
    assert seen[0].fields == {
        b":method": b"POST",
        b":scheme": b"https",
        b":authority": upstream.url.split("/")[2].encode(),
        b":path": b"/api/a?b=c",
        b"authorization": b"Bearer x",
        b"content-length": b"2",
    }


async def test_a_connection_serves_one_post_after_another() -> None:
    async with posting(echo) as (upstream, transport):
        for number in range(20):
            body = b"%d" % number
            assert (await transport.request("POST", upstream.url, {}, body)).body == body
    assert upstream.accepted == ["h2"]


async def test_http1_is_used_if_the_upstream_has_no_http2() -> None:
    async with http2_upstream(echo, protocols=["http/1.1"]) as upstream:
        transport = PatientTransport(tls=client_tls(upstream.authority))
        for _ in range(2):
            assert (await transport.request("POST", upstream.url, {}, b"{}")).status == 201
        await transport.aclose()
    assert upstream.accepted == ["http/1.1"]


@pytest.mark.parametrize(("setting", "sends"), [({}, "h2"), ({"upstream_http2": False}, None)])
async def test_only_submissions_use_http2(
    setting: dict[str, bool], sends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await peer.respond(request.stream, body=b'{"uid": 42, "status": "running"}')

    async with http2_upstream(serve) as upstream:
        upstream.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        async with running(upstream.url, **setting) as gateway, stub(gateway) as jobs:
            with contextlib.suppress(Exception):
                await jobs.SendJob(SEND, metadata=BEARER)
            with contextlib.suppress(Exception):
                await jobs.GetJob(GET_JOB, metadata=BEARER)
    assert upstream.accepted == [sends, None]


async def test_it_goes_through_the_tunnel_of_a_proxy() -> None:
    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        onward, to = await asyncio.open_connection("127.0.0.1", int(head.split()[1].rpartition(b":")[2]))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65_536):
                sink.write(data)
            sink.close()

        try:
            await asyncio.gather(pump(reader, to), pump(onward, writer))
        finally:
            to.close()

    async with http2_upstream(echo) as upstream, tcp_server(tunnel) as port:
        transport = PatientTransport(tls=client_tls(upstream.authority), proxy=f"http://127.0.0.1:{port}")
        assert (await transport.request("POST", upstream.url, {}, b"{}")).body == b"{}"
        await transport.aclose()
    assert upstream.accepted == ["h2"]


# What is certain


class Ending:
    """Serves one POST, and ends the second with bytes that `how` returns. On later connections, it serves all."""

    def __init__(self, how: Callable[[int], bytes]) -> None:
        self.how = how
        self.connections = 0
        self.processed = 0

    async def __call__(self, peer: Peer) -> None:
        self.connections += 1
        while True:
            request = await peer.request()
            if self.connections == 1 and request.stream > 1:
                await peer.send(self.how(request.stream))
                return
            self.processed += 1
            await peer.respond(request.stream, body=b'{"uid": 42, "status": "running"}')


REFUSALS = [
    pytest.param(lambda stream: goaway(stream - 2), id="GOAWAY"),
    pytest.param(lambda stream: goaway((1 << 31) - 1) + goaway(stream - 2), id="GOAWAY in two steps"),
    pytest.param(lambda stream: goaway(stream - 2, error=11), id="GOAWAY with an error"),
    pytest.param(lambda stream: frame(3, REFUSED_STREAM.to_bytes(4), stream=stream), id="REFUSED_STREAM"),
]
LOSSES = [
    pytest.param(lambda _: b"", id="end"),
    pytest.param(goaway, id="GOAWAY after the stream"),
    pytest.param(lambda _: goaway((1 << 31) - 1), id="GOAWAY of the first step"),
    pytest.param(lambda stream: frame(3, CANCEL.to_bytes(4), stream=stream), id="CANCEL"),
    pytest.param(lambda stream: frame(3, NO_ERROR.to_bytes(4), stream=stream), id="NO_ERROR"),
]


@pytest.mark.parametrize("how", REFUSALS)
async def test_a_declared_refusal_is_not_sent(how: Callable[[int], bytes]) -> None:
    ending = Ending(how)
    async with posting(ending) as (upstream, transport):
        await transport.request("POST", upstream.url, {}, b"{}")
        error = await failure(transport.request("POST", upstream.url, {}, b"{}"))
        assert type(error) is UpstreamUnreachable
        assert not error.may_have_been_sent
        assert str(error) == "the upstream did not process the request"
        await transport.request("POST", upstream.url, {}, b"{}")
    assert (ending.connections, ending.processed) == (2, 2)


@pytest.mark.parametrize("how", LOSSES)
async def test_every_other_end_may_have_been_sent(how: Callable[[int], bytes]) -> None:
    ending = Ending(how)
    async with posting(ending) as (upstream, transport):
        await transport.request("POST", upstream.url, {}, b"{}")
        error = await failure(transport.request("POST", upstream.url, {}, b"{}"))
    assert type(error) is UpstreamConnectionLost
    assert ending.connections == 1


@pytest.mark.parametrize("how", REFUSALS)
async def test_a_refused_submission_is_processed_once(
    how: Callable[[int], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = Ending(how)
    async with http2_upstream(ending) as upstream:
        upstream.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        async with running(upstream.url) as gateway, stub(gateway) as jobs:
            for _ in range(2):
                assert (await jobs.SendJob(SEND, metadata=BEARER)).uid == 42
    assert (ending.connections, ending.processed) == (2, 2)


async def test_a_refusal_after_a_part_of_the_answer_proves_nothing() -> None:
    async def serve(peer: Peer) -> None:
        request = await peer.request()
        peer.h2.send_headers(request.stream, [(b":status", b"103")])
        await peer.send(goaway(0) + frame(3, REFUSED_STREAM.to_bytes(4), stream=request.stream))
        await peer.until_gone()

    async with posting(serve) as (upstream, transport):
        error = await failure(transport.request("POST", upstream.url, {}, b"{}"))
    assert type(error) is UpstreamConnectionLost


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(lambda stream: frame(HEADERS, head_block(), stream=stream, flags=END_HEADERS), id="headers"),
        pytest.param(lambda _: frame(WINDOW_UPDATE, ((1 << 31) - 1).to_bytes(4)), id="a window that overflows"),
        pytest.param(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n", id="HTTP/1.1"),
    ],
)
async def test_a_complete_response_counts_whatever_follows(after: Callable[[int], bytes]) -> None:
    async def serve(peer: Peer) -> None:
        request = await peer.request()
        peer.h2.send_headers(request.stream, [(b":status", b"201")])
        peer.h2.send_data(request.stream, b"{}", end_stream=True)
        await peer.send(after(request.stream))
        await peer.until_gone()

    async with posting(serve) as (upstream, transport):
        for _ in range(2):
            assert (await transport.request("POST", upstream.url, {}, b"{}")).body == b"{}"
    assert upstream.accepted == ["h2", "h2"], "the connection was not kept"


async def test_headers_without_an_end_are_part_of_the_answer() -> None:
    async def serve(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(frame(HEADERS, head_block(), stream=request.stream) + goaway(0))

    async with posting(serve) as (upstream, transport):
        error = await failure(transport.request("POST", upstream.url, {}, b"{}"))
    assert error.may_have_been_sent


async def test_an_answer_after_a_goaway_counts() -> None:
    async def serve(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(goaway(request.stream))
        await peer.respond(request.stream, body=b"x" * 100_000)
        await peer.until_gone()

    async with posting(serve) as (upstream, transport):
        for _ in range(2):
            assert len((await transport.request("POST", upstream.url, {}, b"{}")).body) == 100_000
    assert upstream.accepted == ["h2", "h2"], "the connection was not kept"


@pytest.mark.parametrize("end", [b"", goaway(1)])
async def test_a_kept_connection_that_ended_is_not_used(end: bytes) -> None:
    ended = asyncio.Event()

    async def serve(peer: Peer) -> None:
        request = await peer.request()
        await peer.respond(request.stream)
        await peer.send(end)
        peer.writer.close()
        with contextlib.suppress(ssl.SSLError):
            await peer.writer.wait_closed()
        ended.set()

    async with posting(serve) as (upstream, transport):
        for _ in range(10):
            assert (await transport.request("POST", upstream.url, {}, b"{}")).status == 201
            await ended.wait()
            ended.clear()


async def test_a_connection_without_streams_is_not_sent() -> None:
    sent = asyncio.Event()

    async def serve(peer: Peer) -> None:
        request = await peer.request()
        await peer.respond(request.stream)
        if len(upstream.accepted) == 1:
            peer.h2.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 0})
            await peer.flush()
            while not isinstance(await peer.event(), h2.events.SettingsAcknowledged):
                pass
            sent.set()
        await peer.until_gone()

    async with posting(serve) as (upstream, transport):
        await transport.request("POST", upstream.url, {}, b"{}")
        await sent.wait()
        assert type(await failure(transport.request("POST", upstream.url, {}, b"{}"))) is UpstreamUnreachable
        assert (await transport.request("POST", upstream.url, {}, b"{}")).status == 201


# Idle connections


async def test_a_connection_is_used_within_its_idle_time() -> None:
    """Neither the idle time of HTTP/1.1 connections nor that of requests that are not reads applies."""
    async with posting(echo, idle=4) as (upstream, transport):
        for _ in range(3):
            await transport.request("POST", upstream.url, {}, b"{}")
            await transport.clock.advance(READ_IDLE_SECONDS - 1)
    assert upstream.accepted == ["h2"]
    assert Http2Connection.idle_seconds == READ_IDLE_SECONDS


async def test_idle_connections_end_with_a_goaway() -> None:
    said: asyncio.Future[h2.events.Event] = asyncio.get_running_loop().create_future()

    async def serve(peer: Peer) -> None:
        await peer.respond((await peer.request()).stream)
        while True:
            event = await peer.event()
            if isinstance(event, h2.events.ConnectionTerminated):
                said.set_result(event)

    async with posting(serve) as (upstream, transport):
        await transport.request("POST", upstream.url, {}, b"{}")
        await transport.clock.advance(READ_IDLE_SECONDS)
        assert isinstance(await said, h2.events.ConnectionTerminated)


async def test_pings_and_settings_are_answered_while_idle() -> None:
    answered = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.respond((await peer.request()).stream)
        peer.h2.ping(b"12345678")
        peer.h2.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 1 << 30})
        kinds: set[type] = set()
        while not kinds >= {h2.events.PingAckReceived, h2.events.SettingsAcknowledged}:
            kinds.add(type(await peer.event()))
        answered.set()
        await echo(peer)

    async with posting(serve) as (upstream, transport):
        await transport.request("POST", upstream.url, {}, b"{}")
        await answered.wait()
        assert (await transport.request("POST", upstream.url, {"x-new": "1"}, b"{}")).status == 201
    assert upstream.accepted == ["h2"]


async def test_frames_after_a_response_do_not_end_a_connection() -> None:
    async def serve(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await peer.respond(request.stream)
            peer.writer.write(frame(PING, b"12345678"))

    async with posting(serve) as (upstream, transport):
        for _ in range(50):
            await transport.request("POST", upstream.url, {}, b"{}")
    assert upstream.accepted == ["h2"]


# Bodies


@pytest.mark.parametrize("window", [4_096, 65_535])
async def test_8_mib_are_sent_within_the_window(window: int) -> None:
    body = bytes(range(256)) * (8 * MIB // 256)

    async def serve(peer: Peer) -> None:
        peer.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        request = await peer.request()
        assert request.body == body
        await peer.respond(request.stream)
        await echo(peer)

    async with posting(serve) as (upstream, transport):
        assert (await transport.request("POST", upstream.url, {}, body)).status == 201
        assert (await transport.request("POST", upstream.url, {}, b"{}")).status == 201
    assert upstream.accepted == ["h2"]


async def test_an_answer_of_20_mib_stays_within_the_window() -> None:
    answer = bytes(range(256)) * (20 * MIB // 256)

    async def serve(peer: Peer) -> None:
        for _ in range(2):
            request = await peer.request()
            await peer.respond(request.stream, body=answer)
        await peer.until_gone()

    async with posting(serve) as (upstream, transport):
        for _ in range(2):
            assert (await transport.request("POST", upstream.url, {}, b"{}")).body == answer
    assert upstream.accepted == ["h2"]


async def test_no_more_than_the_window_is_sent_ahead() -> None:
    loop = asyncio.get_running_loop()
    window: asyncio.Future[int] = loop.create_future()

    async def serve(peer: Peer) -> None:
        request = await peer.request()
        peer.h2.send_headers(request.stream, [(b":status", b"201")])
        await peer.ping()
        window.set_result(peer.h2.local_flow_control_window(request.stream))
        await peer.until_gone()

    async with posting(serve) as (upstream, transport):
        exchange = asyncio.create_task(transport.request("POST", upstream.url, {}, b"{}"))
        assert await window == MIB
        exchange.cancel()
        await asyncio.gather(exchange, return_exceptions=True)


@pytest.mark.parametrize("ends", [b"reset", b"", b"goaway"])
async def test_an_early_413_is_the_answer(ends: bytes) -> None:
    async def serve(peer: Peer) -> None:
        request = await peer.head()
        await peer.respond(request.stream, 413, b"too large")
        if ends == b"reset":
            peer.h2.reset_stream(request.stream, NO_ERROR)
        await peer.send(goaway(request.stream) if ends == b"goaway" else b"")
        await peer.until_gone()

    async with posting(serve) as (upstream, transport):
        for _ in range(2):
            response = await transport.request("POST", upstream.url, {}, bytes(8 * MIB))
            assert (response.status, response.body) == (413, b"too large")
    assert upstream.accepted == ["h2", "h2"], "half a request is on the first connection"


async def test_a_response_over_the_limit_is_rejected() -> None:
    async def serve(peer: Peer) -> None:
        await peer.respond((await peer.request()).stream, body=bytes(2 * MIB))

    async with posting(serve, max_response_bytes=MIB) as (upstream, transport):
        assert type(await failure(transport.request("POST", upstream.url, {}, b"{}"))) is UpstreamResponseTooLarge


async def test_trailers_and_interim_responses_are_ignored() -> None:
    async def serve(peer: Peer) -> None:
        while True:
            request = await peer.request()
            for _ in range(20):
                peer.h2.send_headers(request.stream, [(b":status", b"103"), (b"link", b"x" * 1_000)])
            peer.h2.send_headers(request.stream, [(b":status", b"201")])
            peer.h2.send_data(request.stream, b"{}", pad_length=9)
            peer.h2.send_headers(request.stream, [(b"location", b"/trailer")], end_stream=True)
            await peer.flush()

    async with posting(serve) as (upstream, transport):
        for _ in range(2):
            response = await transport.request("POST", upstream.url, {}, b"{}")
            assert (response.status, response.body, response.location) == (201, b"{}", None)
    assert upstream.accepted == ["h2"]


# Time


async def test_a_silent_upstream_times_out() -> None:
    answered: asyncio.Queue[None] = asyncio.Queue()
    more = asyncio.Semaphore(0)

    async def serve(peer: Peer) -> None:
        await peer.request()
        while True:
            await peer.ping()
            answered.put_nowait(None)
            await more.acquire()

    async with posting(serve, read=LIMIT) as (upstream, transport):
        exchange = asyncio.create_task(transport.request("POST", upstream.url, {}, b"{}"))
        await answered.get()
        await transport.clock.advance(LIMIT - 1)
        assert not exchange.done()
        more.release()
        await answered.get()
        await transport.clock.advance(1)
        error = await failure(exchange)
    assert type(error) is UpstreamTimeout, "pings are no answer"
    assert error.may_have_been_sent


async def test_silence_while_reading_is_held_back_does_not_count() -> None:
    body = bytes(3 * MIB)
    blocked = asyncio.Event()

    async def serve(peer: Peer) -> None:
        stream = (await peer.request()).stream
        peer.h2.send_headers(stream, [(b":status", b"201")])
        at = 0
        while not blocked.is_set():
            at = await peer.fill(stream, body, at)
            # The reader runs after the first one is answered, and the second answer comes after its updates.
            await peer.ping()
            await peer.ping()
            if not peer.h2.local_flow_control_window(stream):
                blocked.set()
        while (at := await peer.fill(stream, body, at)) < len(body):
            await peer.event()
        await peer.until_gone()

    budget = FairBudget(16 * MIB)
    held = await budget.acquire(b"ann", 16 * MIB)
    async with posting(serve, read=LIMIT, max_response_bytes=4 * MIB, budget=budget) as (upstream, transport):
        exchange = asyncio.create_task(transport.request("POST", upstream.url, {}, b"{}", owner=b"bob"))
        await blocked.wait()
        assert budget.contended(b"ann")
        await transport.clock.advance(3 * LIMIT)
        assert not exchange.done()
        held.release()
        assert (await exchange).body == body


async def test_a_window_that_never_opens_ends_with_the_time() -> None:
    full = asyncio.Event()

    async def serve(peer: Peer) -> None:
        request = await peer.head()
        while peer.h2.remote_flow_control_window(request.stream):
            await peer.event()
        full.set()
        await peer.until_gone()

    async with posting(serve, read=LIMIT, total=3 * LIMIT) as (upstream, transport):
        exchange = asyncio.create_task(transport.request("POST", upstream.url, {}, bytes(MIB)))
        await full.wait()
        await transport.clock.advance(2 * LIMIT)
        assert not exchange.done(), "a request that is being sent is not silence"
        await transport.clock.advance(LIMIT)
        assert type(await failure(exchange)) is UpstreamTimeout


async def test_a_cancelled_request_is_reset() -> None:
    arrived, reset = asyncio.Event(), asyncio.Event()
    seen: list[Peer] = []

    async def serve(peer: Peer) -> None:
        seen.append(peer)
        await peer.request()
        arrived.set()
        try:
            await peer.until_gone()
        finally:
            reset.set()

    async with posting(serve) as (upstream, transport):
        exchange = asyncio.create_task(transport.request("POST", upstream.url, {}, b"{}"))
        await arrived.wait()
        exchange.cancel()
        await asyncio.gather(exchange, return_exceptions=True)
        await reset.wait()
    assert seen[0].resets == [CANCEL]


# Hostile upstreams


def head_block(status: bytes = b"201") -> bytes:
    """Encode a response head without the dynamic table."""
    return b"\x08" + b"\x03" + status


FLOODS = [
    pytest.param(lambda _: frame(PING, b"12345678") * 50_000, id="pings"),
    pytest.param(lambda _: frame(PING, b"12345678", flags=1) * 50_000, id="answers to no ping"),
    pytest.param(lambda _: frame(SETTINGS) * 50_000, id="settings"),
    pytest.param(lambda _: frame(8, (1).to_bytes(4)) * 50_000, id="windows"),
    pytest.param(lambda _: frame(2, bytes(5), stream=99) * 50_000, id="priorities"),
    pytest.param(lambda _: frame(200, b"x" * 100) * 50_000, id="unknown frames"),
    pytest.param(lambda _: goaway(1) * 50_000, id="GOAWAY"),
    pytest.param(
        lambda stream: (
            frame(HEADERS, head_block(), stream=stream, flags=END_HEADERS) + frame(DATA, stream=stream) * 50_000
        ),
        id="empty DATA",
    ),
    pytest.param(
        lambda stream: (
            frame(HEADERS, head_block(), stream=stream, flags=END_HEADERS)
            + frame(DATA, b"\x03\0\0\0", stream=stream, flags=8) * 50_000
        ),
        id="padding",
    ),
    pytest.param(
        lambda stream: frame(HEADERS, head_block(), stream=stream) + frame(CONTINUATION, stream=stream) * 50_000,
        id="CONTINUATION",
    ),
    pytest.param(
        lambda stream: (
            frame(HEADERS, head_block(), stream=stream) + frame(CONTINUATION, b"x" * 16_384, stream=stream) * 100
        ),
        id="headers without end",
    ),
    pytest.param(
        lambda stream: frame(HEADERS, head_block(b"103"), stream=stream, flags=END_HEADERS) * 50_000, id="interim"
    ),
]
BROKEN = [
    pytest.param(lambda _: b"HTTP/1.1 200 OK\r\n\r\n", id="HTTP/1.1"),
    pytest.param(lambda _: frame(DATA, b"x" * 17_000), id="a long frame"),
    pytest.param(lambda _: frame(HEADERS, head_block(), stream=77, flags=END_HEADERS), id="another stream"),
    pytest.param(lambda _: frame(5, (2).to_bytes(4) + head_block(), stream=1, flags=END_HEADERS), id="a push"),
    pytest.param(lambda stream: frame(HEADERS, b"\xff" * 40, stream=stream, flags=END_HEADERS), id="headers"),
    pytest.param(lambda stream: frame(HEADERS, head_block(b"abc"), stream=stream, flags=END_HEADERS), id="status"),
    pytest.param(
        lambda stream: frame(HEADERS, head_block() + head_block(b"500"), stream=stream, flags=END_HEADERS | END_STREAM),
        id="two statuses",
    ),
    pytest.param(
        # One takes a byte and more than a microsecond, so that 70,000 in one block would stop the event loop.
        lambda stream: frame(HEADERS, b"\x20" * 3 + head_block(), stream=stream, flags=END_HEADERS | END_STREAM),
        id="many sizes of the header table",
    ),
    pytest.param(lambda stream: frame(DATA, b"x", stream=stream), id="a body without a head"),
    pytest.param(lambda _: frame(GOAWAY), id="an empty GOAWAY"),
    pytest.param(lambda _: frame(GOAWAY, bytes(7)), id="a short GOAWAY"),
    pytest.param(lambda stream: frame(GOAWAY, bytes(8), stream=stream), id="a GOAWAY of a stream"),
    pytest.param(
        # One header of 4 KB, and 100 references to it.
        lambda stream: frame(
            HEADERS,
            head_block() + b"\x40\x01a\x7f\x81\x1e" + b"x" * 3_968 + b"\xbe" * 100,
            stream=stream,
            flags=END_HEADERS,
        ),
        id="a header bomb",
    ),
]


@pytest.mark.parametrize("what", [*FLOODS, *BROKEN])
async def test_a_response_that_is_not_http2_is_malformed(what: Callable[[int], bytes]) -> None:
    async def serve(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(what(request.stream))
        await peer.until_gone()

    async with posting(serve) as (upstream, transport):
        error = await failure(transport.request("POST", upstream.url, {}, b"{}"))
    assert type(error) is UpstreamMalformed
    assert error.may_have_been_sent


async def test_a_flood_ends_an_idle_connection() -> None:
    gone = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.respond((await peer.request()).stream)
        try:
            while True:
                await peer.send(frame(PING, b"12345678") * 100)
                await peer.event()
        finally:
            gone.set()

    async with posting(serve) as (upstream, transport):
        await transport.request("POST", upstream.url, {}, b"{}")
        await gone.wait()


# uvloop


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(test_a_post_arrives_as_it_was_sent, id="a post"),
        pytest.param(test_http1_is_used_if_the_upstream_has_no_http2, id="HTTP/1.1"),
        pytest.param(test_it_goes_through_the_tunnel_of_a_proxy, id="proxy"),
        pytest.param(partial(test_a_declared_refusal_is_not_sent, lambda stream: goaway(stream - 2)), id="GOAWAY"),
        pytest.param(partial(test_every_other_end_may_have_been_sent, lambda _: b""), id="end"),
        pytest.param(partial(test_a_kept_connection_that_ended_is_not_used, b""), id="idle close"),
        pytest.param(test_pings_and_settings_are_answered_while_idle, id="pings"),
        pytest.param(partial(test_8_mib_are_sent_within_the_window, 65_535), id="8 MiB"),
        pytest.param(test_an_answer_of_20_mib_stays_within_the_window, id="20 MiB"),
        pytest.param(partial(test_an_early_413_is_the_answer, b"goaway"), id="early 413"),
        pytest.param(test_a_cancelled_request_is_reset, id="cancel"),
        pytest.param(test_a_flood_ends_an_idle_connection, id="flood"),
    ],
)
def test_it_works_on_uvloop(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """The gateway runs on uvloop, whose TLS is not asyncio's."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
