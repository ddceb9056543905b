"""The life of a client's connection: its age, and a peer that vanishes in silence."""

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
from tests.support.gateways import BEARER, running
from tests.support.raw import tcp_server
from tests.support.upstream import DONE, RUNNING, ScriptedUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.server.gateway import Gateway

PATIENT = 20.0


class Proxy:
    """A proxy of TCP connections, which may swallow all that comes; it never closes a connection by itself."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self.accepted = 0
        self.swallows = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        onward = await asyncio.open_connection(self._host, self._port)
        try:
            await asyncio.gather(self._pass(reader, onward[1]), self._pass(onward[0], writer))
        finally:
            onward[1].close()

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


async def test_a_connection_of_age_takes_no_new_call_and_lets_its_watch_go_on(upstream: ScriptedUpstream) -> None:
    upstream.script.append(RUNNING)
    async with (
        running(upstream.url, max_connection_age_seconds=1) as gateway,
        proxied(gateway.address) as (proxy, channel),
    ):
        jobs = rpc.JobServiceStub(channel)
        watch = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        assert isinstance(await watch.read(), pb.JobEvent)
        async with asyncio.timeout(PATIENT):
            # GOAWAY has come: the channel has no connection for new calls any more.
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        assert proxy.accepted == 1
        assert (await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)).uid == 42
        assert proxy.accepted == 2
        upstream.script.append(DONE)
        last = await watch.read()
        assert isinstance(last, pb.JobEvent)
        assert last.job.done
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK


async def test_a_watch_that_leaves_a_connection_of_age_goes_on_by_its_token(upstream: ScriptedUpstream) -> None:
    upstream.script.append(RUNNING)
    async with (
        running(upstream.url, max_connection_age_seconds=1) as gateway,
        proxied(gateway.address) as (proxy, channel),
    ):
        jobs = rpc.JobServiceStub(channel)
        watch = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        first = await watch.read()
        assert isinstance(first, pb.JobEvent)
        async with asyncio.timeout(PATIENT):
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        watch.cancel()
        request = pb.WatchJobRequest(uid=42, resume_token=first.resume_token)
        resumed = jobs.WatchJob(request, metadata=BEARER)
        await resumed.initial_metadata()
        upstream.script.append(DONE)
        event = await resumed.read()
        assert isinstance(event, pb.JobEvent)
        assert event.job.done
        assert proxy.accepted == 2


@pytest.mark.parametrize("timeout", ["grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"])
def test_a_peer_that_vanished_is_gone_within_90_seconds(timeout: str) -> None:
    options: dict[str, Any] = dict(defaults.OPTIONS)
    assert options["grpc.keepalive_time_ms"] + options[timeout] <= 90_000


@pytest.mark.parametrize("timeout", ["grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"])
def test_a_ping_may_stay_unanswered_for_a_minute(timeout: str) -> None:
    options: dict[str, Any] = dict(defaults.OPTIONS)
    assert options[timeout] > 60_000


async def test_the_kernel_lets_a_peer_stop_reading_for_a_minute(gateway: Gateway) -> None:
    # grpc sets TCP_USER_TIMEOUT, after which the kernel closes a connection whose peer keeps its window shut.
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        async with asyncio.timeout(PATIENT):
            await channel.channel_ready()
        assert [timeout > 60_000 for timeout in accepted_user_timeouts(gateway.address)] == [True]


def accepted_user_timeouts(address: str) -> list[int]:
    """The TCP_USER_TIMEOUT, in milliseconds, of each connection that this process accepted at `address`."""
    port = int(address.rpartition(":")[2])
    found = []
    for number in Path("/proc/self/fd").iterdir():
        try:
            with socket.socket(fileno=os.dup(int(number.name))) as connection:
                if connection.family != socket.AF_UNIX and connection.getsockname()[1] == port:
                    connection.getpeername()
                    found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT))
        except OSError:
            # Not a socket, not connected, or gone by now.
            continue
    return found


async def test_a_peer_that_vanished_in_silence_is_found_by_pings(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, Any]]
) -> None:
    # The same pings in less time: 1 second instead of 85.
    pings = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    shorter = tuple((name, value // 80 if name in pings else value) for name, value in defaults.OPTIONS)
    monkeypatch.setattr(defaults, "OPTIONS", shorter)
    upstream.script.append(RUNNING)
    async with running(upstream.url) as gateway, proxied(gateway.address) as (proxy, channel):
        watch = rpc.JobServiceStub(channel).WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        assert isinstance(await watch.read(), pb.JobEvent)
        proxy.swallows = True
        async with asyncio.timeout(PATIENT):
            await gateway.wait_idle()
        watch.cancel()
    assert [(line["method"], line["code"]) for line in logged if line["event"] == "call"] == [("WatchJob", "CANCELLED")]
