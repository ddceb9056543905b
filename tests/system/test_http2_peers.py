"""Hostile HTTP/2 peers: others are served meanwhile, and nothing of the hostile peers remains."""

from __future__ import annotations

import asyncio
import gc
import gzip
from typing import TYPE_CHECKING, Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, insecure_channel
from hyperframe.frame import ContinuationFrame, GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1.job_service_pb2_grpc import JobServiceStub
from jobgateway_client.calls import channel_options

from gateway.server import defaults
from tests.support.frames import Peer, header_block, headers, message, peer, ping, reset
from tests.support.gateways import BEARER, TOKEN, next_event, running, stub
from tests.support.raw import tcp_server
from tests.support.upstream import RUNNING, answer

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2_grpc as rpc

    from gateway.server.gateway import Gateway
    from tests.support.upstream import ScriptedUpstream

pytestmark = pytest.mark.slow

JOB_SERVICE_PATH = "/jobgateway.v1.JobService"
AUTHORIZED = [("authorization", f"Bearer {TOKEN}")]
MESSAGES = {
    "GetJob": pb.GetJobRequest(uid=42).SerializeToString(),
    "WatchJob": pb.WatchJobRequest(uid=42).SerializeToString(),
}
EXHAUSTED = str(StatusCode.RESOURCE_EXHAUSTED.value[0])
TEST_SECONDS = 20.0


@pytest.fixture(autouse=True)
def running_job(upstream: ScriptedUpstream) -> None:
    """Let the upstream report a running job in every response."""
    upstream.script.append(RUNNING)


async def served(jobs: rpc.JobServiceAsyncStub) -> bool:
    """Return True if another client is served."""
    job = await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER, timeout=TEST_SECONDS)
    return job.status == pb.JOB_STATUS_RUNNING


async def call(raw: Peer, stream: int, block: bytes) -> dict[str, str]:
    await raw.send(headers(stream, block) + message(stream, MESSAGES["GetJob"]))
    async with asyncio.timeout(TEST_SECONDS):
        return await raw.ending(stream)


def is_empty(gateway: Gateway) -> bool:
    return gateway._admission.in_flight == 0 and gateway._hub.watcher_count == 0  # noqa: SLF001 - both must be empty


# Rapid reset


async def reset_rapidly(gateway: Gateway, method: str, *, with_message: bool, streams: int) -> None:
    """Open `streams` streams on one connection, and reset each in the same write."""
    block = header_block(f"{JOB_SERVICE_PATH}/{method}", AUTHORIZED)
    async with peer(gateway.address) as raw:
        for stream in range(1, 2 * streams, 2):
            sent = message(stream, MESSAGES[method]) if with_message else b""
            await raw.send(headers(stream, block) + sent + reset(stream))
        # A reply to this ping shows that the server has read everything before.
        await raw.send(ping(1))
        async with asyncio.timeout(TEST_SECONDS):
            await raw.until(PingFrame)


@pytest.mark.parametrize(
    ("method", "with_message"), [("GetJob", True), ("WatchJob", True), ("WatchJob", False)], ids=str
)
async def test_rapid_resets_delay_no_one_and_leave_nothing(
    gateway: Gateway, jobs: rpc.JobServiceAsyncStub, logged: list[object], method: str, with_message: bool
) -> None:
    async def settled() -> tuple[int, int]:
        assert await served(jobs)
        # Handlers of calls that were reset may not have started yet.
        async with asyncio.timeout(TEST_SECONDS):
            while len(asyncio.all_tasks()) > tasks:
                await served(jobs)
        assert is_empty(gateway)
        logged.clear()
        gc.collect()
        return len(asyncio.all_tasks()), len(gc.get_objects())

    await served(jobs)
    tasks = len(asyncio.all_tasks())
    await reset_rapidly(gateway, method, with_message=with_message, streams=200)
    _, objects = await settled()
    flood = asyncio.create_task(reset_rapidly(gateway, method, with_message=with_message, streams=3_000))
    while not flood.done():
        assert await served(jobs)
    await flood
    _, objects_after = await settled()
    assert objects_after - objects < 1_500, "less than half an object for a stream"


# Streams that stop after their headers


@pytest.mark.parametrize("sent", [b"", b"\0\0\0"], ids=["no message", "half a message"])
async def test_streams_without_a_message_take_no_slot(upstream: ScriptedUpstream, sent: bytes) -> None:
    async with running(upstream.url, max_calls=1, max_watches=1) as gateway, stub(gateway) as jobs:
        await served(jobs)
        tasks = len(asyncio.all_tasks())
        async with peer(gateway.address) as raw:
            block = header_block(f"{JOB_SERVICE_PATH}/GetJob", AUTHORIZED)
            for stream in range(1, 1_000, 2):
                await raw.send(headers(stream, block) + (_data(stream, sent) if sent else b""))
            await raw.send(ping(1))
            await raw.until(PingFrame)
            assert await served(jobs)
            assert is_empty(gateway)
        async with asyncio.timeout(TEST_SECONDS):
            while len(asyncio.all_tasks()) > tasks:
                await served(jobs)


def _data(stream: int, data: bytes) -> bytes:
    # A part of a message's head, which message() would complete.
    return len(data).to_bytes(3, "big") + b"\0\0" + stream.to_bytes(4, "big") + data


async def test_a_message_with_a_length_of_4_gib_is_rejected(gateway: Gateway, jobs: rpc.JobServiceAsyncStub) -> None:
    async with peer(gateway.address) as raw, asyncio.timeout(TEST_SECONDS):
        await raw.send(
            headers(1, header_block(f"{JOB_SERVICE_PATH}/GetJob", AUTHORIZED)) + _data(1, b"\0\xff\xff\xff\xff")
        )
        assert (await raw.ending(1))["grpc-status"] == EXHAUSTED
    assert await served(jobs)


async def test_a_request_that_unpacks_beyond_the_limit_is_rejected(
    gateway: Gateway, jobs: rpc.JobServiceAsyncStub
) -> None:
    bomb = gzip.compress(bytes(defaults.MAX_REQUEST_BYTES + 1))
    block = header_block(f"{JOB_SERVICE_PATH}/SendJob", [*AUTHORIZED, ("grpc-encoding", "gzip")])
    async with peer(gateway.address) as raw, asyncio.timeout(TEST_SECONDS):
        await raw.send(headers(1, block) + message(1, bomb, compressed=True))
        assert (await raw.ending(1))["grpc-status"] == EXHAUSTED
    assert await served(jobs)


# Headers


def metadata_of(size: int) -> list[tuple[str, str]]:
    """Return metadata of almost `size` bytes, as HTTP/2 counts them."""
    return [*AUTHORIZED, *((f"x-{number:06}", "v" * 460) for number in range((size - 400) // 500))]


@pytest.mark.parametrize("size", [9_000, 12_000, 16_000])
async def test_metadata_up_to_16_kb_is_accepted(gateway: Gateway, size: int) -> None:
    async with peer(gateway.address) as raw:
        # Repeated, because between a soft and a hard limit grpc rejects calls at random.
        for stream in range(1, 41, 2):
            block = header_block(f"{JOB_SERVICE_PATH}/GetJob", metadata_of(size))
            assert (await call(raw, stream, block))["grpc-status"] == "0"


@pytest.mark.parametrize("size", [18_000, 100_000, 2_000_000])
async def test_larger_metadata_is_rejected_on_a_usable_connection(
    gateway: Gateway, upstream: ScriptedUpstream, size: int
) -> None:
    async with peer(gateway.address) as raw:
        refused = await call(raw, 1, header_block(f"{JOB_SERVICE_PATH}/GetJob", metadata_of(size)))
        assert refused["grpc-status"] == EXHAUSTED
        assert TOKEN not in str(refused)
        assert upstream.seen == []
        assert (await call(raw, 3, header_block(f"{JOB_SERVICE_PATH}/GetJob", AUTHORIZED)))["grpc-status"] == "0"


async def test_endless_empty_continuations_end_the_connection(gateway: Gateway, jobs: rpc.JobServiceAsyncStub) -> None:
    block = header_block(f"{JOB_SERVICE_PATH}/GetJob", AUTHORIZED)
    async with peer(gateway.address) as raw:
        await raw.send(HeadersFrame(1, block).serialize())
        with pytest.raises(ConnectionError):  # noqa: PT012 - one of many sends fails
            async with asyncio.timeout(TEST_SECONDS):
                while True:
                    await raw.send(ContinuationFrame(1, b"").serialize() * 100)
    assert await served(jobs)


# Pings and settings


async def send_ping(raw: Peer, number: int) -> GoAwayFrame | None:
    """Send a ping. Return None after its reply, or the GOAWAY that the server sends instead."""
    await raw.send(ping(number))
    async with asyncio.timeout(TEST_SECONDS):
        async for frame in raw.frames():
            if isinstance(frame, GoAwayFrame):
                return frame
            if isinstance(frame, PingFrame) and "ACK" in frame.flags:
                return None
    raise ConnectionError("the server closed the connection without GOAWAY")


async def test_pings_without_a_pause_end_the_connection(gateway: Gateway, jobs: rpc.JobServiceAsyncStub) -> None:
    async with peer(gateway.address) as raw:
        for number in range(1, 10):
            if ended := await send_ping(raw, number):
                break
    assert ended is not None
    assert ended.additional_data == b"too_many_pings"
    assert await served(jobs)


@pytest.mark.parametrize("with_call", [False, True], ids=["idle", "with a watch"])
async def test_pings_within_the_limit_are_acknowledged(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, with_call: bool
) -> None:
    """The limit is ten milliseconds here; with the documented ten seconds, the third ping would be too many."""
    short = dict(defaults.OPTIONS) | {"grpc.http2.min_ping_interval_without_data_ms": 10}
    monkeypatch.setattr(defaults, "OPTIONS", tuple(short.items()))
    async with running(upstream.url) as gateway, peer(gateway.address) as raw:
        if with_call:
            block = header_block(f"{JOB_SERVICE_PATH}/WatchJob", AUTHORIZED)
            await raw.send(headers(1, block) + message(1, MESSAGES["WatchJob"]))
            await raw.until(HeadersFrame)
        for number in range(1, 13):
            await asyncio.sleep(0.03)
            assert await send_ping(raw, number) is None


def test_the_cli_pings_within_the_limit() -> None:
    options = dict(channel_options(None, ()))
    assert int(options["grpc.keepalive_time_ms"]) >= defaults.CLIENT_PING_MS
    assert options["grpc.http2.max_pings_without_data"] == 0, "it does not stop while a stream is quiet"


async def test_the_cli_leaves_a_gateway_that_ignores_pings() -> None:
    """Its two times are a tenth of a second here; its other options are unchanged."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SettingsFrame(0).serialize() + SettingsFrame(0, flags=["ACK"]).serialize())
        while await reader.read(65536):
            pass

    options = [(name, 100 if value in {10_000, 20_000} else value) for name, value in channel_options(None, ())]
    async with tcp_server(accept) as port, insecure_channel(f"127.0.0.1:{port}", options) as channel:
        wait = JobServiceStub(channel).WaitJob(pb.WaitJobRequest(uid=42), timeout=TEST_SECONDS)
        with pytest.raises(AioRpcError) as raised:
            await wait
    assert raised.value.code() is StatusCode.UNAVAILABLE


@pytest.mark.parametrize("answers_to", [0, 1], ids=["none", "the first"])
async def test_a_peer_that_ignores_pings_is_disconnected(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, answers_to: int
) -> None:
    """By default within 90 seconds; here both times are a tenth of a second."""
    assert defaults.PING_EVERY_MS + defaults.PING_TIMEOUT_MS <= 90_000
    times = {defaults.PING_EVERY_MS, defaults.PING_TIMEOUT_MS}
    monkeypatch.setattr(
        defaults, "OPTIONS", tuple((name, 100 if value in times else value) for name, value in defaults.OPTIONS)
    )
    # On a quiet stream, only pings can detect the loss.
    async with running(upstream.url) as gateway, peer(gateway.address) as raw:
        block = header_block(f"{JOB_SERVICE_PATH}/WatchJob", AUTHORIZED)
        await raw.send(headers(1, block) + message(1, MESSAGES["WatchJob"]))
        async with asyncio.timeout(TEST_SECONDS):
            async for frame in raw.frames():
                if isinstance(frame, PingFrame) and answers_to:
                    answers_to -= 1
                    await raw.send(PingFrame(0, frame.opaque_data, flags=["ACK"]).serialize())
            await gateway.wait_idle()
        assert is_empty(gateway)


async def test_a_flood_of_settings_delays_no_one(gateway: Gateway, jobs: rpc.JobServiceAsyncStub) -> None:
    async with peer(gateway.address) as raw:

        async def flood() -> None:
            try:
                for _ in range(100):
                    await raw.send(SettingsFrame(0).serialize() * 200)
            except ConnectionError:
                return

        flooding = asyncio.create_task(flood())
        for _ in range(5):
            assert await served(jobs)
        flooding.cancel()
        await asyncio.wait([flooding])
    assert await served(jobs)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="HTTP/1.1"),
        pytest.param(bytes.fromhex("160301020001000001fc0303") + bytes(64), id="TLS"),
        pytest.param(b"\0" * 64, id="zeros"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64, id="no frame"),
    ],
)
async def test_other_protocols_end_the_connection(gateway: Gateway, jobs: rpc.JobServiceAsyncStub, sent: bytes) -> None:
    host, _, port = gateway.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    async with asyncio.timeout(TEST_SECONDS):
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
    writer.close()
    assert await served(jobs)


def _bare(name: bytes, value: bytes) -> bytes:
    return b"\0%c%b%c%b" % (len(name), name, len(value), value)


async def test_the_listener_survives_a_path_that_is_not_text(
    upstream: ScriptedUpstream, gateway: Gateway, logged: list[Any]
) -> None:
    """The path ends the accept loop of grpc.aio, which then reports SERVING but accepts no calls."""
    upstream.on("GET", "/jobs/42/", RUNNING)
    fields = {b":method": b"POST", b":scheme": b"http", b":path": b"/\xff", b":authority": b"x", b"te": b"trailers"}
    fields[b"content-type"] = b"application/grpc"
    block = b"".join(_bare(name, value) for name, value in fields.items())
    address = gateway.address
    async with asyncio.timeout(TEST_SECONDS), stub(gateway) as jobs:
        watch = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        assert (await next_event(watch)).job.uid == 42
        for times in (1, 2):
            async with peer(address) as hostile:
                await hostile.send(headers(1, block, end=True))
                await hostile.until(GoAwayFrame)
            while sum(each["event"] == "listener.restarted" for each in logged) < times or not gateway.ready:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            # On a new connection, because the others may not have received GOAWAY yet.
            async with insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                again: rpc.JobServiceAsyncStub = JobServiceStub(channel)
                got = await again.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER, wait_for_ready=True)
            assert got.uid == 42
            assert gateway.address == address
            assert gateway.ready
        upstream.on("GET", "/jobs/42/", answer(200, {"uid": 42, "status": "success"}))
        while not (await next_event(watch)).job.done:
            pass
