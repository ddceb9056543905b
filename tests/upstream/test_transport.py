"""One HTTP exchange: errors, limits of time and memory, repeats."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import socket
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from gateway.auth.credential import Credential
from gateway.errors import (
    UpstreamConnectionLost,
    UpstreamError,
    UpstreamMalformed,
    UpstreamResponseTooLarge,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.limits.fair_budget import FairBudget
from gateway.models import SendJob
from gateway.telemetry.jobs import ObservedJobs
from gateway.telemetry.metrics import Metrics
from gateway.threads import WorkerPool
from gateway.upstream import RequestContext, RestClient, memory
from gateway.upstream.transport import ERROR_BODY_SECONDS, MAX_ERROR_BODY_BYTES
from tests.support.clock import SteppedClock
from tests.support.raw import free_port, self_signed, tcp_server
from tests.support.transports import TEST_SECONDS, failure, upstream_health
from tests.support.upstream import Connection, ScriptedUpstream, answer, hang

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.support.transports import MakeTransport, PatientTransport

# A limit, in seconds of the transport's clock.
LIMIT = 10.0
ANSWER_LIMIT = 3 << 20
ROOM = 4 * ANSWER_LIMIT


@pytest.fixture
def budget() -> FairBudget:
    """Memory for some of the largest responses."""
    return FairBudget(ROOM)


@pytest.fixture
def transport_options(budget: FairBudget) -> dict[str, Any]:
    """Return small limits of memory."""
    return {"max_response_bytes": ANSWER_LIMIT, "budget": budget}


def then(*pieces: bytes, end: Callable[[Connection], Any] = lambda _: None) -> Callable[[Connection], Awaitable[None]]:
    """Return a reply that sends pieces, each after the previous one was sent, and then calls `end`."""

    async def reply(connection: Connection) -> None:
        for piece in pieces:
            await connection.send(piece)
        ending = end(connection)
        if ending is not None:
            await ending

    return reply


def signal_and_hang(arrived: asyncio.Event) -> Callable[[Connection], Awaitable[None]]:
    """Return the end of a reply: set `arrived` when the transport has read all before it, and send no more."""

    async def end(connection: Connection) -> None:
        await connection.delivered()
        arrived.set()
        await connection.gone()

    return end


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - these conditions have no event
        await asyncio.sleep(0.001)


HEAD = b"HTTP/1.1 200 OK\r\n"


# Proved not to be sent


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_a_refused_connection_counts_as_not_sent(make: MakeTransport, host: str) -> None:
    error = await failure(make().request("POST", f"http://{host}:{free_port()}/", {}, b"{}"))
    assert type(error) is UpstreamUnreachable
    assert not error.may_have_been_sent


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/", "http://127.1/"])
async def test_an_unknown_name_counts_as_not_sent(make: MakeTransport, url: str) -> None:
    assert type(await failure(make().request("POST", url, {}, b"{}"))) is UpstreamUnreachable


def is_connecting(port: int) -> bool:
    """Return whether the system waits for the first reply from a port (SYN_SENT)."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(fields[2].endswith(f":{port:04X}") and fields[3] == "02" for fields in sockets)


async def test_a_connect_timeout_counts_as_not_sent(make: MakeTransport) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # The kernel accepts this connection, and drops later ones because its queue is full.
        with socket.create_connection(listener.getsockname()):
            port = listener.getsockname()[1]
            transport = make(connect=LIMIT)
            exchange = asyncio.create_task(transport.request("POST", f"http://127.0.0.1:{port}/", {}, b"{}"))
            await until(lambda: is_connecting(port))
            await transport.clock.advance(LIMIT - 1)
            assert not exchange.done()
            await transport.clock.advance(1)
            error = await failure(exchange)
    assert type(error) is UpstreamUnreachable


async def test_an_untrusted_certificate_counts_as_not_sent(make: MakeTransport, tmp_path: Path) -> None:
    read: list[bytes] = []

    async def accept(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        read.append(await reader.read())

    async with tcp_server(accept, tls=self_signed(tmp_path)) as port:
        error = await failure(make().request("POST", f"https://127.0.0.1:{port}/", {}, b"{}"))
    assert type(error) is UpstreamUnreachable
    assert b"".join(read) == b""


async def _close(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    return


async def test_a_failed_tls_handshake_counts_as_not_sent(make: MakeTransport) -> None:
    async with tcp_server(_close) as port:
        error = await failure(make().request("POST", f"https://127.0.0.1:{port}/", {}, b"{}"))
    assert type(error) is UpstreamUnreachable


async def test_a_tls_handshake_without_reply_counts_as_not_sent(make: MakeTransport) -> None:
    begun = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read(1)
        begun.set()
        await reader.read()

    # The event loop has a limit of the handshake too, in real time.
    transport = make(connect=10 * TEST_SECONDS)
    async with tcp_server(accept) as port:
        exchange = asyncio.create_task(transport.request("POST", f"https://127.0.0.1:{port}/", {}, b"{}"))
        await begun.wait()
        await transport.clock.advance(10 * TEST_SECONDS)
        error = await failure(exchange)
    assert type(error) is UpstreamUnreachable


async def test_of_two_addresses_the_one_that_listens_is_used(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    upstream.script.append(answer(200, {}))
    assert (await make().request("GET", f"http://localhost:{upstream.port}/", {})).status == 200


# Possibly sent


async def test_a_close_before_the_request_is_read_counts_as_sent(make: MakeTransport) -> None:
    async with tcp_server(_close) as port:
        error = await failure(make().request("POST", f"http://127.0.0.1:{port}/", {}, b"{}"))
    assert type(error) is UpstreamConnectionLost
    assert error.may_have_been_sent


LOST = {
    "closed after the request": then(),
    "reset after the request": then(end=Connection.reset),
    "closed within the head": then(b"HTTP/1.1 200 OK\r\nContent-"),
    "closed within the body": then(HEAD + b"Content-Length: 10\r\n\r\n{}"),
    "reset within the body": then(HEAD + b"Content-Length: 10\r\n\r\n{}", end=Connection.reset),
    "closed within a chunk": then(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"),
}
MALFORMED = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "HTTP/0.9": b"{}",
    "a flood of headers": HEAD + b"".join(b"X-%d: 1\r\n" % number for number in range(20_000)) + b"\r\n",
    "a huge header": HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "a length beside chunks": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "no gzip": answer(200, {}, headers={"Content-Encoding": "gzip"}),
    "gzip within gzip": answer(
        200, raw=gzip.compress(gzip.compress(b"{}")), headers={"Content-Encoding": "gzip, gzip"}
    ),
    "gzip within gzip, in two headers": HEAD
    + b"Content-Encoding: gzip\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "status 099": b"HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\n{}",
    "status 101": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    "status 600": b"HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\n{}",
}
BROKEN = [
    *(pytest.param(reply, UpstreamConnectionLost, id=name) for name, reply in LOST.items()),
    *(pytest.param(reply, UpstreamMalformed, id=name) for name, reply in MALFORMED.items()),
]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("reply", "kind"), BROKEN)
async def test_a_broken_response_is_classified_and_counts_as_sent(
    make: MakeTransport, upstream: ScriptedUpstream, method: str, reply: Any, kind: type[UpstreamError]
) -> None:
    upstream.script.append(reply)
    body = b"{}" if method == "POST" else None
    error = await failure(make().request(method, upstream.url, {}, body))
    assert type(error) is kind
    assert error.may_have_been_sent
    assert error.transient
    assert len(upstream.seen) == 1


async def test_a_length_of_more_digits_than_python_reads_is_none(
    make: MakeTransport, upstream: ScriptedUpstream
) -> None:
    body = b"x" * (2 << 20)
    upstream.script.append(HEAD + b"Content-Length: " + b"0" * 5_000 + b"%d\r\n\r\n" % len(body) + body)
    assert (await make().request("POST", upstream.url, {}, b"{}")).body == body


async def test_a_reason_that_is_not_utf8_is_ignored(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    upstream.script.append(b"HTTP/1.1 200 \xff\xfe\r\nContent-Length: 2\r\n\r\n{}")
    answer = await make().request("GET", upstream.url, {})
    assert (answer.status, answer.body) == (200, b"{}")


TOO_SLOW = {
    "no answer": b"",
    "half a head": b"HTTP/1.1 200 OK\r\n",
    "no body": HEAD + b"Content-Length: 2\r\n\r\n",
    "half a body": HEAD + b"Content-Length: 10\r\n\r\n{}",
}


@pytest.mark.parametrize("limits", [{"read": LIMIT}, {"total": LIMIT}], ids=["read", "total"])
@pytest.mark.parametrize("part", TOO_SLOW.values(), ids=TOO_SLOW)
async def test_a_response_that_takes_too_long_is_a_time_out(
    make: MakeTransport, upstream: ScriptedUpstream, part: bytes, limits: dict[str, float]
) -> None:
    arrived = asyncio.Event()
    upstream.script.append(then(part, end=signal_and_hang(arrived)))
    transport = make(**limits)
    exchange = asyncio.create_task(transport.request("POST", upstream.url, {}, b"{}"))
    await arrived.wait()
    await transport.clock.advance(LIMIT - 1)
    assert not exchange.done()
    await transport.clock.advance(1)
    error = await failure(exchange)
    assert type(error) is UpstreamTimeout
    assert error.may_have_been_sent
    assert len(upstream.seen) == 1


async def test_the_total_limit_ends_a_response_that_never_completes(
    make: MakeTransport, upstream: ScriptedUpstream
) -> None:
    arrived: asyncio.Queue[None] = asyncio.Queue()
    more = asyncio.Semaphore(0)

    async def drip(connection: Connection) -> None:
        await connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        while True:
            await connection.send(b"1\r\n \r\n")
            await connection.delivered()
            arrived.put_nowait(None)
            await more.acquire()

    upstream.script.append(drip)
    transport = make(read=LIMIT, total=3.5 * LIMIT)
    exchange = asyncio.create_task(transport.request("GET", upstream.url, {}))
    for _ in range(3):
        await arrived.get()
        await transport.clock.advance(LIMIT - 1)
        assert not exchange.done(), "each byte restarts the limit of silence"
        more.release()
    await arrived.get()
    # No longer than the limit of silence.
    await transport.clock.advance(LIMIT - 1)
    assert type(await failure(exchange)) is UpstreamTimeout


REFUSED = HEAD.replace(b"200 OK", b"400 Bad Request") + b"Content-Length: 10\r\n\r\n{}"


@pytest.mark.parametrize("limits", [{}, {"read": 1.0}, {"total": 2.0}, {"total": 2.0, "read": 1.0}])
async def test_a_refusal_stays_one_whose_body_hangs(
    make: MakeTransport, upstream: ScriptedUpstream, limits: dict[str, float]
) -> None:
    arrived = asyncio.Event()
    upstream.script.append(then(REFUSED, end=signal_and_hang(arrived)))
    transport = make(**limits)
    exchange = asyncio.create_task(transport.request("POST", upstream.url, {}, b"{}"))
    await arrived.wait()
    assert not exchange.done()
    await transport.clock.advance(min(limits.values(), default=ERROR_BODY_SECONDS))
    assert exchange.done()
    assert (await exchange).status == 400


@pytest.mark.parametrize(
    "reply",
    [
        then(REFUSED, end=Connection.reset),
        answer(400, raw=b"{}", headers={"Content-Encoding": "gzip, gzip"}),
        answer(400, raw=b"{}", headers={"Content-Encoding": "br"}),
    ],
    ids=["is reset", "is encoded twice", "is encoded otherwise"],
)
async def test_a_refusal_stays_one_with_any_body(make: MakeTransport, upstream: ScriptedUpstream, reply: Any) -> None:
    upstream.script.append(reply)
    assert (await make().request("POST", upstream.url, {}, b"{}")).status == 400


# Sizes


async def test_a_response_over_the_limit_does_not_arrive(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    upstream.script += [answer(200, raw=b" " * ANSWER_LIMIT), answer(200, raw=b" " * (ANSWER_LIMIT + 1))]
    transport = make()
    assert (await transport.request("GET", upstream.url, {})).body == b" " * ANSWER_LIMIT
    error = await failure(transport.request("GET", upstream.url, {}))
    assert type(error) is UpstreamResponseTooLarge
    assert error.may_have_been_sent
    assert not error.transient


async def test_a_gzip_bomb_is_stopped_at_the_limit(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    bomb = gzip.compress(bytes(20 * ANSWER_LIMIT))
    assert len(bomb) < ANSWER_LIMIT / 10
    upstream.script.append(answer(200, raw=bomb, headers={"Content-Encoding": "gzip"}))
    assert type(await failure(make().request("GET", upstream.url, {}))) is UpstreamResponseTooLarge


async def test_a_gzip_response_that_was_not_asked_for_is_read(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    upstream.script.append(answer(200, raw=gzip.compress(b'{"uid": 1}'), headers={"Content-Encoding": "gzip"}))
    assert (await make().request("GET", upstream.url, {})).body == b'{"uid": 1}'


async def test_of_an_error_the_first_mib_is_kept(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    upstream.script.append(answer(500, raw=b"x" * (2 * MAX_ERROR_BODY_BYTES)))
    got = await make().request("GET", upstream.url, {})
    assert (got.status, got.body) == (500, b"x" * MAX_ERROR_BODY_BYTES)


async def test_a_large_body_is_sent_whole_with_its_length(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    body = os.urandom(5 << 19)
    upstream.script.append(answer(201, {}))
    await make().request("POST", upstream.url, {}, body)
    (seen,) = upstream.seen
    assert seen.body == body
    assert seen.headers["content-length"] == str(len(body))
    assert "transfer-encoding" not in seen.headers


async def test_an_early_response_spoils_no_later_exchange(make: MakeTransport) -> None:
    heads: list[bytes] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer(413 if len(heads) == 1 else 200, {}))
        await writer.drain()
        await reader.read(1)
        if len(heads) > 1:
            await reader.read()

    transport = make()
    async with tcp_server(accept) as port:
        url = f"http://127.0.0.1:{port}/"
        # More than fits into socket buffers, so that the rest is never written.
        assert (await transport.request("POST", url, {}, bytes(50 << 20))).status == 413
        assert (await transport.request("POST", url, {}, b"{}")).status == 200
    assert [head.split(b" ")[0] for head in heads] == [b"POST", b"POST"]


# Valid responses


@pytest.mark.parametrize(
    ("reply", "status", "body"),
    [
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", id="204"),
        pytest.param(then(b"HTTP/1.0 200 OK\r\n\r\n{}"), 200, b"{}", id="HTTP/1.0, up to the end"),
        pytest.param(then(HEAD + b"Connection: close\r\n\r\n{}"), 200, b"{}", id="no length, up to the end"),
        pytest.param(HEAD + b"Content-Length: 0\r\n\r\n", 200, b"", id="an empty body"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(200, raw=b"{}"), 200, b"{}", id="after 100"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", 200, b"{}", id="chunks"
        ),
        pytest.param(answer(503, raw=b"<html>"), 503, b"<html>", id="an error page"),
    ],
)
async def test_a_response_is_read_to_its_end(
    make: MakeTransport, upstream: ScriptedUpstream, reply: Any, status: int, body: bytes
) -> None:
    upstream.script.append(reply)
    got = await make().request("GET", upstream.url, {})
    assert (got.status, got.body) == (status, body)


async def test_retry_after_comes_along(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    upstream.script.append(answer(429, {}, headers={"Retry-After": "7"}))
    assert (await make().request("GET", upstream.url, {})).retry_after == "7"


# One caller's exchange does not change another's


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(make: MakeTransport, upstream: ScriptedUpstream, status: int) -> None:
    other = ScriptedUpstream()
    await other.start()
    upstream.script.append(answer(status, {}, headers={"Location": other.url}))
    got = await make().request("POST", upstream.url, {"authorization": "Bearer t"}, b"{}")
    await other.stop()
    assert got.status == status
    assert other.seen == []
    assert len(upstream.seen) == 1


async def test_a_cookie_never_comes_back(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    upstream.script.append(answer(200, {}, headers={"Set-Cookie": "session=of-the-first-caller; Path=/"}))
    transport = make()
    # A name, because aiohttp's cookie jar ignores IP addresses.
    for _ in range(2):
        await transport.request("GET", f"http://localhost:{upstream.port}/", {})
    assert [seen.headers.get("cookie") for seen in upstream.seen] == [None, None]


async def test_a_proxy_of_the_environment_is_ignored(
    make: MakeTransport, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    upstream.script.append(answer(200, {}))
    assert (await make().request("GET", f"http://localhost:{upstream.port}/", {})).status == 200


async def test_a_cancelled_exchange_closes_its_connection(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    closed = asyncio.Event()

    async def reply(connection: Connection) -> None:
        await connection.gone()
        closed.set()

    upstream.script.append(reply)
    exchange = asyncio.create_task(make().request("GET", upstream.url, {}))
    await upstream.wait_for(1)
    exchange.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange
    await closed.wait()


async def test_waiting_for_a_connection_has_no_timeout(make: MakeTransport, upstream: ScriptedUpstream) -> None:
    release = asyncio.Event()

    async def reply(connection: Connection) -> None:
        await release.wait()
        await connection.send(answer(200, {}, headers={"Connection": "close"}))

    upstream.script.append(reply)
    transport = make(connect=LIMIT, max_connections=1)
    exchanges = [asyncio.create_task(transport.request("GET", upstream.url, {})) for _ in range(3)]
    await upstream.wait_for(1)
    # Longer than the limit for connecting.
    await transport.clock.advance(2 * LIMIT)
    assert len(upstream.seen) == 1
    release.set()
    assert [(await each).status for each in exchanges] == [200, 200, 200]


async def test_as_many_exchanges_as_connections_run_in_parallel(
    make: MakeTransport, upstream: ScriptedUpstream
) -> None:
    upstream.script.append(then(end=hang))
    transport = make(max_connections=3)
    exchanges = [asyncio.create_task(transport.request("GET", upstream.url, {})) for _ in range(3)]
    async with asyncio.timeout(TEST_SECONDS):
        await upstream.wait_for(3)
    for each in exchanges:
        each.cancel()
    await asyncio.wait(exchanges)


# Idle connections


async def test_a_post_that_meets_an_idle_close_is_never_sent_twice(make: MakeTransport) -> None:
    posts: list[bytes] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        posts.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.readexactly(2)
        writer.write(answer(201, {}))
        await writer.drain()
        # Read the second request, and close without a response, as for an idle connection.
        posts.append(await reader.readuntil(b"\r\n\r\n"))

    transport = make()
    async with tcp_server(accept) as port:
        url = f"http://127.0.0.1:{port}/"
        await transport.request("POST", url, {}, b"{}")
        error = await failure(transport.request("POST", url, {}, b"{}"))
    assert type(error) is UpstreamConnectionLost
    assert error.may_have_been_sent
    assert len(posts) == 2


async def test_a_post_after_the_idle_time_takes_a_new_connection(make: MakeTransport) -> None:
    closed: asyncio.Queue[None] = asyncio.Queue()
    connections = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2)
        writer.write(answer(201, {}))
        await reader.read()
        closed.put_nowait(None)

    transport = make(idle=LIMIT)
    async with tcp_server(accept) as port:
        for _ in range(3):
            await transport.request("POST", f"http://127.0.0.1:{port}/", {}, b"{}")
            await transport.clock.advance(LIMIT)
            # The transport closes it, not the server, so no request can meet the server's close.
            async with asyncio.timeout(TEST_SECONDS):
                await closed.get()
    assert connections == 3


async def test_a_connection_within_its_idle_time_is_used_again(make: MakeTransport) -> None:
    connections = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(200, {}))

    transport = make(idle=LIMIT)
    async with tcp_server(accept) as port:
        for _ in range(3):
            await transport.request("GET", f"http://127.0.0.1:{port}/", {})
            await transport.clock.advance(LIMIT - 1)
    assert connections == 1


# Paths


@pytest.mark.parametrize(
    "workspace",
    [
        "1",
        "a b",
        "a..b",
        "~x",
        "a:b",
        "a@b",
        "a+b",
        "a&b=c",
        "wörk",
        "工作",
        "a%2Fb",
        "a%b",
        "a;b",
        "a,b",
        "(a)",
        "a'b",
        "*",
        "...",
        "a#b?c",
        "a\\b",
        "a/b",
    ],
)
async def test_a_workspace_reaches_the_wire_as_one_segment(
    make: MakeTransport, upstream: ScriptedUpstream, workspace: str
) -> None:
    upstream.script.append(answer(201, {"uid": 5}))
    client = RestClient(
        upstream.url,
        submissions=make(),
        reads=make(),
        now=lambda: 0.0,
        observer=ObservedJobs(Metrics()),
        workers=WorkerPool("responses", 1),
        health=upstream_health(SteppedClock()),
    )
    await client.send(SendJob(workspace_id=workspace, entity_id=7), RequestContext(Credential("a-token"), {}))
    (seen,) = upstream.seen
    *before, segment, entities, entity, jobs, end = seen.path.split("/")
    assert before == ["", "api", "workspaces"]
    assert (entities, entity, jobs, end) == ("entities", "7", "jobs", "")
    assert unquote(segment, errors="strict") == workspace


# Memory

LARGE = 2 << 20


def chunked(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize(
    "reply",
    [
        answer(200, raw=b"x" * LARGE),
        chunked(b"x" * LARGE),
        answer(200, raw=gzip.compress(b"x" * LARGE), headers={"Content-Encoding": "gzip"}),
    ],
    ids=["length", "chunked", "gzip"],
)
async def test_a_large_response_reserves_its_size(
    upstream: ScriptedUpstream, make: MakeTransport, budget: FairBudget, reply: bytes
) -> None:
    upstream.script.append(reply)
    got = await make().request("GET", upstream.url, {})
    assert len(got.body) == LARGE
    assert got.reservation is not None
    assert budget.free == ROOM - LARGE
    got.reservation.release()
    assert budget.free == ROOM


@pytest.mark.parametrize(
    "reply", [answer(200, raw=b"x" * (1 << 20)), answer(404, raw=b"x" * LARGE)], ids=["small", "404"]
)
async def test_small_responses_and_errors_reserve_nothing(
    upstream: ScriptedUpstream, make: MakeTransport, budget: FairBudget, reply: bytes
) -> None:
    upstream.script.append(reply)
    await budget.acquire(b"ann", ROOM)
    assert (await make().request("GET", upstream.url, {})).reservation is None


async def test_a_failed_response_keeps_no_memory_reserved(
    upstream: ScriptedUpstream, make: MakeTransport, budget: FairBudget
) -> None:
    async def half(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % ANSWER_LIMIT + b"x" * LARGE)

    bomb = answer(200, raw=gzip.compress(b"x" * (ANSWER_LIMIT + 1)), headers={"Content-Encoding": "gzip"})
    for reply, error in ((half, UpstreamConnectionLost), (bomb, UpstreamResponseTooLarge)):
        upstream.script.clear()
        upstream.script.append(reply)
        assert isinstance(await failure(make().request("GET", upstream.url, {})), error)
        assert budget.free == ROOM


async def test_large_responses_wait_their_turn(
    upstream: ScriptedUpstream, make: MakeTransport, budget: FairBudget
) -> None:
    await budget.acquire(b"ann", ROOM - LARGE)
    upstream.script.append(answer(200, raw=b"x" * LARGE))
    transport = make()
    first = await transport.request("GET", upstream.url, {})
    assert first.reservation is not None
    second = asyncio.create_task(transport.request("GET", upstream.url, {}))
    await until(lambda: budget.contended(b"ann"))
    assert not second.done()
    first.reservation.release()
    assert len((await second).body) == LARGE


class Stopwatch:
    """A `PauseTimeout` that counts."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.begun += 1
        yield
        self.ended += 1


@pytest.mark.parametrize("reply", [answer(200, raw=b"x" * LARGE), chunked(b"x" * LARGE)], ids=["length", "chunked"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_waiting_for_memory_does_not_count_as_time(
    upstream: ScriptedUpstream, make: MakeTransport, budget: FairBudget, reply: bytes, method: str
) -> None:
    held = await budget.acquire(b"ann", ROOM)
    upstream.script.append(reply)
    pause = Stopwatch()
    body = b"{}" if method == "POST" else None
    transport = make(total=LIMIT)
    waiting = asyncio.create_task(transport.request(method, upstream.url, {}, body, owner=b"bob", pause=pause))
    await until(lambda: pause.begun == 1)
    await transport.clock.advance(2 * LIMIT)
    assert not waiting.done()
    assert pause.ended == 0
    held.release()
    assert len((await waiting).body) == LARGE
    assert (pause.begun, pause.ended) == (1, 1)
    assert len(upstream.seen) == 1


def holds_back(transport: PatientTransport) -> bool:
    """Return whether the only connection reads no more because of its own reader."""
    (connection,) = transport._pool._all  # noqa: SLF001 - the socket does not show it
    return connection._input.paused  # noqa: SLF001


async def test_silence_while_reading_is_held_back_does_not_count(
    upstream: ScriptedUpstream, make: MakeTransport, budget: FairBudget
) -> None:
    more = asyncio.Event()

    async def reply(connection: Connection) -> None:
        await connection.send(HEAD + b"Content-Length: %d\r\n\r\n" % (LARGE + 1) + b"x" * LARGE)
        await more.wait()
        await connection.send(b"x")

    held = await budget.acquire(b"ann", ROOM)
    upstream.script.append(reply)
    transport = make(read=LIMIT)
    waiting = asyncio.create_task(transport.request("GET", upstream.url, {}, owner=b"bob"))
    await until(lambda: budget.contended(b"ann") and holds_back(transport))
    await transport.clock.advance(3 * LIMIT)
    assert not waiting.done()
    held.release()
    more.set()
    assert len((await waiting).body) == LARGE + 1


async def test_a_response_of_unknown_size_keeps_no_extra_memory(
    upstream: ScriptedUpstream, budget: FairBudget, make: MakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "FIRST_STEP_BYTES", LARGE // 2)
    stopped = asyncio.Event()

    async def drip(connection: Connection) -> None:
        await connection.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b" % (LARGE, b"x" * (LARGE - 1)))
        await stopped.wait()
        await connection.send(b"x\r\n0\r\n\r\n")

    upstream.script += [drip, drip, answer(200, raw=b"x" * LARGE)]
    transport = make()
    slow = [asyncio.create_task(transport.request("GET", upstream.url, {}, owner=b"ann")) for _ in range(2)]
    await until(lambda: len(upstream.seen) == 2 and budget.held(b"ann") == 2 * LARGE)
    # Both could become as large as any response, but neither blocks another.
    assert len((await transport.request("GET", upstream.url, {}, owner=b"bob")).body) == LARGE
    stopped.set()
    assert [len((await each).body) for each in slow] == [LARGE, LARGE]


async def test_a_response_that_outgrows_its_memory_is_read_again(
    upstream: ScriptedUpstream, budget: FairBudget, make: MakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "FIRST_STEP_BYTES", LARGE // 2)
    held = await budget.acquire(b"ann", ROOM - LARGE // 2)
    upstream.script += [chunked(b"x" * LARGE), chunked(b"y" * LARGE)]
    waiting = asyncio.create_task(make().request("GET", upstream.url, {}, owner=b"bob"))
    await until(lambda: budget.contended(b"ann"))
    assert budget.held(b"bob") == 0, "who waits for more holds nothing"
    held.release()
    got = await waiting
    assert got.body == b"y" * LARGE
    assert got.reservation is not None
    got.reservation.release()
    assert budget.free == ROOM


async def test_a_delete_that_outgrows_its_memory_is_sent_once(
    upstream: ScriptedUpstream, budget: FairBudget, make: MakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "FIRST_STEP_BYTES", LARGE // 2)
    held = await budget.acquire(b"ann", ROOM - LARGE // 2)
    upstream.script += [chunked(b"x" * LARGE)] * 2
    waiting = asyncio.create_task(make().request("DELETE", upstream.url, {}, owner=b"bob"))
    await until(lambda: budget.contended(b"ann"))
    held.release()
    assert (await waiting).body == b"x" * LARGE
    assert [seen.method for seen in upstream.seen] == ["DELETE"]


async def test_an_error_does_not_keep_the_body_in_memory(upstream: ScriptedUpstream, make: MakeTransport) -> None:
    upstream.script.append(
        answer(200, raw=gzip.compress(b"x" * (ANSWER_LIMIT + 1)), headers={"Content-Encoding": "gzip"})
    )
    transport = make()
    tracemalloc.start()
    try:
        error = await failure(transport.request("GET", upstream.url, {}))
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(error, UpstreamResponseTooLarge)
    assert most > ANSWER_LIMIT / 2 > held
