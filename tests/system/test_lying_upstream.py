"""Responses that lie: each call ends with the documented error in time, and the next call succeeds."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from jobgateway.v1 import job_service_pb2 as pb

from gateway.server import defaults
from tests.support.gateways import BEARER, SEND, expect_error, running, stub
from tests.support.raw import tcp_server
from tests.support.upstream import Connection, ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jobgateway.v1 import job_service_pb2_grpc as rpc

pytestmark = pytest.mark.slow

SILENCE = 0.2
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
JOB = b'{"uid": 42, "status": "running"}'
OTHERS = b'{"uid": 42, "status": "success", "result": {"whose": "another caller\'s"}}'


def sized(length: object, body: bytes = JOB, *more: bytes) -> bytes:
    """Build a response that claims to be `length` bytes long."""
    lines = [b"Content-Length: %b" % str(length).encode(), *more]
    return HEAD + b"\r\n".join(lines) + b"\r\n\r\n" + body


def encoded(name: str, body: bytes) -> bytes:
    return answer(200, raw=body, headers={"Content-Encoding": name})


def then_silence(data: bytes) -> Callable[[Connection], Awaitable[None]]:
    async def reply(connection: Connection) -> None:
        await connection.send(data)
        await connection.gone()

    return reply


def then_close(data: bytes) -> Callable[[Connection], Awaitable[None]]:
    async def reply(connection: Connection) -> None:
        await connection.send(data)

    return reply


def without_end(data: bytes, pause: float, head: bytes = b"") -> Callable[[Connection], Awaitable[None]]:
    """Send `head`, and then `data` every `pause` seconds without end."""

    async def reply(connection: Connection) -> None:
        await connection.send(head)
        while not connection.reader.at_eof():
            await connection.send(data)
            await asyncio.sleep(pause)

    return reply


def byte_by_byte(head: bytes, data: bytes) -> Callable[[Connection], Awaitable[None]]:
    """Send `head`, and then `data` too slowly to end, but too fast to count as silent."""

    async def reply(connection: Connection) -> None:
        await connection.send(head)
        for number in range(10**6):
            await connection.send(data[number : number + 1] or b" ")
            await asyncio.sleep(SILENCE / 10)

    return reply


GZIPPED = gzip.compress(JOB)

LIES: dict[str, tuple[Any, str]] = {
    "a length too long, then the end": (then_close(sized(len(JOB) + 1)), "UPSTREAM_CONNECTION_LOST"),
    "a length too long, then silence": (then_silence(sized(len(JOB) + 1)), "UPSTREAM_TIMEOUT"),
    "a length too short": (sized(len(JOB) - 1), "UPSTREAM_MALFORMED"),
    "a length of nothing": (sized(0), "UPSTREAM_MALFORMED"),
    "a length of 30 digits": (then_close(sized("9" * 30)), "UPSTREAM_MALFORMED"),
    "a length below zero": (sized(-1), "UPSTREAM_MALFORMED"),
    "a length with a sign": (sized(f"+{len(JOB)}"), "UPSTREAM_MALFORMED"),
    "a length in hexadecimal": (sized("0x20"), "UPSTREAM_MALFORMED"),
    "two lengths": (sized(len(JOB), JOB, b"Content-Length: 2"), "UPSTREAM_MALFORMED"),
    "two lengths in one": (sized(f"{len(JOB)}, {len(JOB)}"), "UPSTREAM_MALFORMED"),
    "a length beside chunks": (
        sized(len(JOB), b"20\r\n" + JOB + b"\r\n0\r\n\r\n", b"Transfer-Encoding: chunked"),
        "UPSTREAM_MALFORMED",
    ),
    "a chunk without a number": (CHUNKED + b"xx\r\n" + JOB + b"\r\n0\r\n\r\n", "UPSTREAM_MALFORMED"),
    "a chunk below zero": (CHUNKED + b"-1\r\n" + JOB + b"\r\n0\r\n\r\n", "UPSTREAM_MALFORMED"),
    "a chunk too long": (then_close(CHUNKED + b"ffff\r\n" + JOB), "UPSTREAM_CONNECTION_LOST"),
    "a chunk too short": (CHUNKED + b"5\r\n" + JOB + b"\r\n0\r\n\r\n", "UPSTREAM_MALFORMED"),
    "a chunk of 40 digits": (CHUNKED + b"f" * 40 + b"\r\n" + JOB, "UPSTREAM_MALFORMED"),
    "a chunk whose extension has no end": (CHUNKED + b"20;" + b"x" * 200_000, "UPSTREAM_TIMEOUT"),
    "no last chunk": (then_close(CHUNKED + b"20\r\n" + JOB + b"\r\n"), "UPSTREAM_CONNECTION_LOST"),
    "an unknown transfer encoding": (
        then_close(HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + GZIPPED),
        "UPSTREAM_MALFORMED",
    ),
    "plain text called gzip": (encoded("gzip", JOB), "UPSTREAM_MALFORMED"),
    "plain text called deflate": (encoded("deflate", JOB), "UPSTREAM_MALFORMED"),
    "gzip that ends too early": (encoded("gzip", GZIPPED[:-12]), "UPSTREAM_MALFORMED"),
    "gzip without its check": (encoded("gzip", GZIPPED[:-8]), "UPSTREAM_MALFORMED"),
    "gzip with a wrong check": (encoded("gzip", GZIPPED[:-8] + bytes(8)), "UPSTREAM_MALFORMED"),
    "gzip twice": (encoded("gzip, gzip", gzip.compress(GZIPPED)), "UPSTREAM_MALFORMED"),
    "gzip twice, called gzip once": (encoded("gzip", gzip.compress(GZIPPED)), "UPSTREAM_MALFORMED"),
    "br that was not asked for": (encoded("br", b"\x8b\x0f\x80" + JOB + b"\x03"), "UPSTREAM_MALFORMED"),
    "zstd that was not asked for": (encoded("zstd", b"\x28\xb5\x2f\xfd" + JOB), "UPSTREAM_MALFORMED"),
    "an unknown content encoding": (encoded("x-unknown", GZIPPED), "UPSTREAM_MALFORMED"),
    "a header of 1 MB": (HEAD + b"X: " + b"x" * (1 << 20) + b"\r\n\r\n" + JOB, "UPSTREAM_MALFORMED"),
    "a header without a colon": (HEAD + b"nothing\r\n\r\n", "UPSTREAM_MALFORMED"),
    "NUL in a header": (sized(len(JOB), JOB, b"X: a\0b"), "UPSTREAM_MALFORMED"),
    "status 999": (b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", "UPSTREAM_MALFORMED"),
    "status 000": (b"HTTP/1.1 000 Odd\r\nContent-Length: 0\r\n\r\n", "UPSTREAM_MALFORMED"),
    "a status of four digits": (b"HTTP/1.1 2000 Odd\r\nContent-Length: 0\r\n\r\n", "UPSTREAM_MALFORMED"),
    "a status that is no number": (b"HTTP/1.1 OK OK\r\nContent-Length: 0\r\n\r\n", "UPSTREAM_MALFORMED"),
    "HTTP/0.9": (then_close(JOB), "UPSTREAM_MALFORMED"),
    "HTTP/9.9": (then_close(b"HTTP/9.9 200 OK\r\nContent-Length: 32\r\n\r\n" + JOB), "UPSTREAM_MALFORMED"),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "UPSTREAM_MALFORMED"),
    "settings of HTTP/2": (bytes.fromhex("000000040000000000"), "UPSTREAM_MALFORMED"),
    "a TLS alert": (bytes.fromhex("15030100020246"), "UPSTREAM_MALFORMED"),
    "a switch of protocols": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "UPSTREAM_MALFORMED",
    ),
    "204 for a job": (b"HTTP/1.1 204 No Content\r\n\r\n", "UPSTREAM_MALFORMED"),
    "204 with a body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 32\r\n\r\n" + JOB, "UPSTREAM_MALFORMED"),
    "205 with a body": (b"HTTP/1.1 205 Reset\r\nContent-Length: 4\r\n\r\nabcd", "UPSTREAM_MALFORMED"),
    "206, a part": (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\n" + JOB[:5], "UPSTREAM_MALFORMED"),
    "100 and then nothing": (then_silence(b"HTTP/1.1 100 Continue\r\n\r\n"), "UPSTREAM_TIMEOUT"),
    "a storm of 100": (without_end(b"HTTP/1.1 100 Continue\r\n\r\n" * 500, 0), "UPSTREAM_MALFORMED"),
    "a drizzle of 103": (without_end(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 0.01), "UPSTREAM_TIMEOUT"),
    "a head byte by byte": (byte_by_byte(b"", b"HTTP/1.1 200 OK\r\nX: "), "UPSTREAM_TIMEOUT"),
    "a body byte by byte": (byte_by_byte(sized(10**6, b""), JOB), "UPSTREAM_TIMEOUT"),
    "chunks of one byte": (without_end(b"1\r\n \r\n", 0.01, CHUNKED), "UPSTREAM_TIMEOUT"),
    "gzip that holds nothing and has no end": (
        without_end(b"\0\0\0\xff\xff", 0.01, HEAD + b"Content-Encoding: gzip\r\n\r\n" + GZIPPED[:10]),
        "UPSTREAM_TIMEOUT",
    ),
}


async def read(jobs: rpc.JobServiceAsyncStub) -> pb.Job:
    return await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)


@pytest.fixture
async def jobs(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a gateway that waits `SILENCE` seconds for the next byte of a response, and twice that for all of it."""
    monkeypatch.setattr(defaults, "TOTAL_TIMEOUT_FACTOR", 2)
    limits = {"upstream_timeout_seconds": SILENCE, "submit_timeout_seconds": 2 * SILENCE}
    async with running(upstream.url, **limits) as gateway, stub(gateway) as service:
        yield service


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_fails_one_read_and_the_next_succeeds(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, name: str
) -> None:
    lie, reason = LIES[name]
    upstream.script += [lie, answer(200, raw=JOB)]
    assert (await expect_error(read(jobs))).reason == reason
    assert (await read(jobs)).status == pb.JOB_STATUS_RUNNING


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_makes_the_outcome_of_one_submission_unknown(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, name: str
) -> None:
    lie, _ = LIES[name]
    upstream.script += [lie, answer(201, {"uid": 43})]
    failed = await expect_error(jobs.SendJob(SEND, metadata=BEARER))
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN")
    assert len(upstream.requests("POST")) == 1
    assert (await jobs.SendJob(SEND, metadata=BEARER)).uid == 43


# Unusual, but true


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 50 + answer(200, raw=JOB), id="100 fifty times before"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + answer(200, raw=JOB), id="103 before"),
        pytest.param(encoded("gzip", GZIPPED), id="gzip that was not asked for"),
        pytest.param(encoded("identity", JOB), id="the encoding identity"),
        pytest.param(sized(len(JOB), JOB, b"X: a\r\n b"), id="a header continued on the next line"),
        pytest.param(sized(f"00{len(JOB)}"), id="a length with leading zeros"),
        pytest.param(answer(200, raw=JOB, headers={"Content-Type": "text/html"}), id="another content type"),
    ],
)
async def test_unusual_responses_are_read(
    upstream: ScriptedUpstream, jobs: rpc.JobServiceAsyncStub, reply: bytes
) -> None:
    upstream.script.append(reply)
    assert (await read(jobs)).status == pb.JOB_STATUS_RUNNING


# Responses without a request


@pytest.mark.parametrize("later", [False, True], ids=["with the first", "while the connection is idle"])
async def test_an_unrequested_response_is_given_to_no_one(later: bool) -> None:
    """Proxies often send 408 on an idle connection; here it is the job of another client."""
    requests = []
    idle = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            requests.append(writer)
            first = len(requests) == 1
            writer.write(answer(200, raw=JOB) + (answer(200, raw=OTHERS) if first and not later else b""))
            await writer.drain()
            if first and later:
                await idle.wait()
                writer.write(answer(200, raw=OTHERS))

    async with tcp_server(accept) as port, running(f"http://127.0.0.1:{port}") as gateway, stub(gateway) as jobs:
        assert (await read(jobs)).status == pb.JOB_STATUS_RUNNING
        idle.set()
        # Both ends are in this event loop, so some turns suffice for the bytes to arrive.
        for _ in range(20):
            await asyncio.sleep(0)
        assert (await read(jobs)).status == pb.JOB_STATUS_RUNNING
    assert requests[0] is not requests[1], "on a new connection"
