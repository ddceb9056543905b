"""Holds that a fleet shares through a real Redis."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from jobgateway.v1 import job_service_pb2 as pb

from gateway.clock import SystemClock
from gateway.limits.holds import MAX_HOLD_SECONDS, Holds
from gateway.submit.health import StoreHealth
from gateway.submit.redis_connection import RedisConnection, read_url
from gateway.submit.redis_holds import HOLDS_KEY, MAX_HELD, SharedHolds
from tests.submit.fleet import send, send_over
from tests.support.gateways import BEARER, TOKEN, expect_error, next_event, running, stub
from tests.support.raw import free_port
from tests.support.redis import eventually
from tests.support.upstream import DONE, JOBS, RUNNING, ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.server.gateway import Gateway
    from tests.support.redis import RedisServer

pytestmark = pytest.mark.tools

ANN, BOB = b"a" * 16, b"b" * 16
OTHER = (("authorization", "Bearer vktrpat_another-token"),)
LIMITED = answer(429, {"detail": "slow down"}, headers={"Retry-After": "60"})
MADE = answer(201, {"uid": 42})


class Sharer:
    """The holds of one gateway."""

    def __init__(self, url: str) -> None:
        clock = SystemClock()
        self._connection = RedisConnection(read_url(url), StoreHealth(clock))
        self.holds = Holds(clock)
        self.shared = SharedHolds(self._connection, clock, self.holds)

    async def aclose(self) -> None:
        await self.shared.aclose()
        await self._connection.aclose()


@asynccontextmanager
async def sharers(url: str) -> AsyncIterator[list[Sharer]]:
    made = [Sharer(url) for _ in range(2)]
    try:
        yield made
    finally:
        for each in made:
            await each.aclose()


async def test_a_hold_is_shared_and_only_grows(own_redis: RedisServer) -> None:
    async with sharers(own_redis.url) as (one, other):
        await one.shared.write(ANN, 60)
        await other.shared.write(ANN, 5)
        await other.shared.read()
        assert 50 < other.holds.remaining(ANN) <= 60
        assert other.holds.remaining(BOB) == 0
        async with own_redis.client() as client:
            assert 60_000 < await client.pttl(HOLDS_KEY) <= MAX_HOLD_SECONDS * 1000


async def test_holds_that_are_over_leave_redis(own_redis: RedisServer) -> None:
    async with sharers(own_redis.url) as (one, other), own_redis.client() as client:
        await one.shared.write(ANN, 60)
        await client.hset(HOLDS_KEY, ANN, 1)
        await client.hset(HOLDS_KEY, BOB, 1)
        await other.shared.read()
        assert other.holds.remaining(ANN) > 50
        assert await client.hlen(HOLDS_KEY) == 1


async def test_the_number_of_shared_holds_is_limited(own_redis: RedisServer) -> None:
    async with sharers(own_redis.url) as (one, _), own_redis.client() as client:
        await asyncio.gather(*(one.shared.write(b"%016d" % number, 60) for number in range(MAX_HELD + 10)))
        assert await client.hlen(HOLDS_KEY) == MAX_HELD


async def test_without_redis_a_gateway_follows_its_own_holds() -> None:
    async with sharers(f"redis://127.0.0.1:{free_port()}") as (one, other):
        for each in (one, other):
            each.shared.start()
        one.holds.begin(ANN, 60)
        await other.shared.read()
        assert one.holds.remaining(ANN) > 50
        assert other.holds.remaining(ANN) == 0


@pytest.fixture
def shared(own_redis: RedisServer, tmp_path: Path) -> dict[str, Any]:
    """The settings of a fleet."""
    key = tmp_path / "key"
    key.write_text("k" * 32)
    return {"state_url": own_redis.url, "state_key_file": key}


async def is_held(gateway: Gateway) -> bool:
    """Return whether the gateway rejects a submission because of a hold."""
    async with stub(gateway) as jobs:
        return (await send_over(jobs, "", 30.0)).reason == "LIMIT_REACHED"


async def test_a_429_on_one_gateway_holds_all_of_them(upstream: ScriptedUpstream, shared: dict[str, Any]) -> None:
    upstream.on("POST", JOBS, MADE)
    upstream.on("GET", "/jobs/41/", LIMITED)
    upstream.on("GET", "/jobs/42/", RUNNING)
    upstream.on("GET", "/jobs/43/", answer(200, {"uid": 43, "status": "running"}))
    async with (
        running(upstream.url, **shared) as one,
        running(upstream.url, **shared) as two,
        stub(one) as jobs,
        stub(two) as others,
    ):
        polled = others.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        await next_event(polled)
        not_held = others.WatchJob(pb.WatchJobRequest(uid=43), metadata=OTHER)
        await next_event(not_held)
        limited = jobs.WatchJob(pb.WatchJobRequest(uid=41), metadata=BEARER)
        await eventually(lambda: is_held(two))
        failure = await expect_error(others.SendJob(pb.SendJobRequest(workspace_id="1", entity_id=7), metadata=BEARER))
        assert 50 < failure.retry.retry_delay.seconds <= 63
        posts = len(upstream.requests("POST"))

        def polls(uid: int) -> int:
            return sum(each.path.endswith(f"/jobs/{uid}/") for each in upstream.requests("GET"))

        held, free = polls(42), polls(43)
        while polls(43) < free + 20:
            await upstream.wait_for(len(upstream.seen) + 1)
        # One poll may have been in flight.
        assert polls(42) <= held + 1
        assert polls(41) == 1
        assert (await send(two.address, "", metadata=OTHER)).uid == 42
        assert len(upstream.requests("POST")) == posts + 1
        for each in (polled, not_held, limited):
            each.cancel()


async def test_a_429_of_a_submission_holds_polls_elsewhere(
    upstream: ScriptedUpstream, own_redis: RedisServer, shared: dict[str, Any]
) -> None:
    upstream.on("POST", JOBS, LIMITED)
    upstream.on("GET", "/jobs/42/", DONE)
    async with running(upstream.url, **shared) as one, running(upstream.url, **shared) as two:
        assert (await send(one.address, "order")).reason == "UPSTREAM_RATE_LIMITED"
        await eventually(lambda: is_held(two))
        async with own_redis.client() as client:
            (credential,) = await client.hgetall(HOLDS_KEY)
            assert len(b64decode(credential)) == 16
            assert TOKEN.encode() not in credential
        async with stub(two) as jobs:
            wait = pb.WaitJobRequest(uid=42)
            wait.timeout.FromMilliseconds(300)
            assert (await expect_error(jobs.WaitJob(wait, metadata=BEARER))).reason == "NO_STATE_YET"
            assert not upstream.requests("GET")
            assert (await jobs.WaitJob(wait, metadata=OTHER)).done


async def test_gateways_cut_off_from_redis_hold_alone(
    upstream: ScriptedUpstream, own_redis: RedisServer, shared: dict[str, Any]
) -> None:
    upstream.on("POST", JOBS, LIMITED, MADE)
    async with running(upstream.url, **shared) as one, running(upstream.url, **shared) as two:
        own_redis.kill()
        assert (await send(one.address, "")).reason == "UPSTREAM_RATE_LIMITED"
        assert await is_held(one)
        assert not await is_held(two)
