"""Connections of clients: their maximum age, and peers that vanish without a FIN."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from gateway.server import defaults
from tests.support.gateways import BEARER, next_event, running
from tests.support.raw import tcp_server
from tests.support.upstream import DONE, RUNNING, ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.server.gateway import Gateway

TEST_SECONDS = 20.0


class Proxy:
    """A TCP proxy that can swallow all data. It never closes a connection first."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self.accepted = 0
        self.swallows = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        target_reader, target_writer = await asyncio.open_connection(self._host, self._port)
        try:
            await asyncio.gather(self._pass(reader, target_writer), self._pass(target_reader, writer))
        finally:
            target_writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.swallows:
                writer.write(data)
                await writer.drain()
        if not self.swallows:
            writer.write_eof()


@asynccontextmanager
async def proxied(address: str) -> AsyncIterator[tuple[Proxy, grpc.aio.Channel]]:
    proxy = Proxy(address)
    async with tcp_server(proxy) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield proxy, channel


@asynccontextmanager
async def watch_on_aged_connection(
    upstream: ScriptedUpstream,
) -> AsyncIterator[tuple[Proxy, rpc.JobServiceAsyncStub, Any, str]]:
    """Watch a running job until its connection is aged. Yield proxy, stub, watch and the watch's resume token."""
    upstream.script.append(RUNNING)
    async with (
        running(upstream.url, max_connection_age_seconds=1) as gateway,
        proxied(gateway.address) as (proxy, channel),
    ):
        jobs: rpc.JobServiceAsyncStub = rpc.JobServiceStub(channel)
        watch = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        token = (await next_event(watch)).resume_token
        async with asyncio.timeout(TEST_SECONDS):
            # After GOAWAY, the channel has no connection for new calls.
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        yield proxy, jobs, watch, token


async def test_an_aged_connection_keeps_its_watch_but_gets_no_calls(upstream: ScriptedUpstream) -> None:
    async with watch_on_aged_connection(upstream) as (proxy, jobs, watch, _):
        assert proxy.accepted == 1
        assert (await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)).uid == 42
        assert proxy.accepted == 2
        upstream.script.append(DONE)
        assert (await next_event(watch)).job.done
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK


async def test_a_watch_resumes_after_its_connection_aged(upstream: ScriptedUpstream) -> None:
    async with watch_on_aged_connection(upstream) as (proxy, jobs, watch, token):
        watch.cancel()
        request = pb.WatchJobRequest(uid=42, resume_token=token)
        resumed: Any = jobs.WatchJob(request, metadata=BEARER)
        await resumed.initial_metadata()
        upstream.script.append(DONE)
        assert (await next_event(resumed)).job.done
        assert proxy.accepted == 2


@pytest.mark.parametrize("timeout", ["grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"])
def test_a_vanished_peer_is_detected_within_90_seconds(timeout: str) -> None:
    options: dict[str, Any] = dict(defaults.OPTIONS)
    assert options["grpc.keepalive_time_ms"] + options[timeout] <= 90_000


@pytest.mark.parametrize("timeout", ["grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"])
def test_a_ping_may_have_no_reply_for_a_minute(timeout: str) -> None:
    options: dict[str, Any] = dict(defaults.OPTIONS)
    assert options[timeout] > 60_000


async def test_the_kernel_lets_a_peer_stop_reading_for_a_minute(gateway: Gateway) -> None:
    # grpc sets TCP_USER_TIMEOUT. The kernel then closes connections whose peer does not read for so long.
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        async with asyncio.timeout(TEST_SECONDS):
            await channel.channel_ready()
        assert [timeout > 60_000 for timeout in accepted_user_timeouts(gateway.address)] == [True]


def accepted_user_timeouts(address: str) -> list[int]:
    """Return TCP_USER_TIMEOUT in milliseconds of all connections that this process accepted at `address`."""
    port = int(address.rpartition(":")[2])
    found = []
    for number in Path("/proc/self/fd").iterdir():
        try:
            with socket.socket(fileno=os.dup(int(number.name))) as connection:
                if connection.family != socket.AF_UNIX and connection.getsockname()[1] == port:
                    connection.getpeername()
                    found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        except OSError:
            # Not a socket, not connected, or closed meanwhile.
            continue
    return found


async def test_pings_detect_a_vanished_peer(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, Any]]
) -> None:
    # The same pings, 80 times as fast: 1 second instead of 85.
    pings = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    shorter = tuple((name, value // 80 if name in pings else value) for name, value in defaults.OPTIONS)
    monkeypatch.setattr(defaults, "OPTIONS", shorter)
    upstream.script.append(RUNNING)
    async with running(upstream.url) as gateway, proxied(gateway.address) as (proxy, channel):
        watch = rpc.JobServiceStub(channel).WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        await next_event(watch)
        proxy.swallows = True
        async with asyncio.timeout(TEST_SECONDS):
            await gateway.wait_idle()
        watch.cancel()
    assert [(line["method"], line["code"]) for line in logged if line["event"] == "call"] == [("WatchJob", "CANCELLED")]
