"""The Python client of `clients/python`: its retry delays, and its keepalive over a dead connection."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from jobclient.connection import channel_options
from jobclient.failure import Failure
from jobclient.resume import LONGEST_WAIT, Attempts
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from clients.runner.proxy import Proxy
from tests.system.test_clients import EVENTS, OpenWatches


def test_waits_stay_limited_after_many_failures() -> None:
    attempts = Attempts()
    waits = [attempts.wait(Failure(grpc.StatusCode.UNAVAILABLE)) for _ in range(1200)]
    assert max(waits) <= LONGEST_WAIT


async def test_keepalive_ends_a_call_over_a_dead_connection() -> None:
    # A tenth of the real times. Without a ping timeout, the C core would take a minute.
    options = [(name, value // 10 if name.endswith("_ms") else value) for name, value in channel_options("{}")]  # type: ignore[operator]
    async with (
        OpenWatches() as address,
        Proxy(address) as proxy,
        grpc.aio.insecure_channel(proxy.address, options) as channel,
        asyncio.timeout(50),
    ):
        call = rpc.JobServiceStub(channel).WatchJob(pb.WatchJobRequest(uid=7))
        assert [await call.read() for _ in EVENTS] == EVENTS
        proxy.blackhole()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
