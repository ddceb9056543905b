"""A whole gateway on each store: the trailer, the reason of an unreachable store, and the settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from jobgateway.v1 import job_service_pb2 as pb
from pydantic import ValidationError

from gateway.config import Settings
from gateway.errors import ConfigError
from gateway.server.gateway import Gateway
from tests.submit.fleet import REPLAYED, request_of, send
from tests.support.gateways import BEARER, Failure, running, stub
from tests.support.redis import eventually
from tests.support.scraping import scrape
from tests.support.upstream import ScriptedUpstream, answer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.redis import RedisServer

URL = "http://127.0.0.1:1/api"


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.tools)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    key = tmp_path / "key"
    key.write_text("k" * 32)
    if request.param == "redis":
        return {"state_url": request.getfixturevalue("redis").url, "state_key_file": key}
    return {"state_url": "memory:" if request.param == "memory" else f"sqlite://{tmp_path}/state.db"}


async def test_a_repeated_submission_has_a_trailer(
    upstream: ScriptedUpstream, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    request_id = request.node.name
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", answer(200, {"uid": 42, "status": "success", "result": {}}))
    async with running(upstream.url, **settings) as gateway:
        first, again = [await send(gateway.address, request_id) for _ in range(2)]
        assert (first.uid, first.replayed, again.uid, again.replayed) == (42, False, 42, True)
        async with stub(gateway) as jobs:
            for request_id_, replayed in ((request_id, True), ("", False)):
                call = jobs.RunJob(pb.RunJobRequest(request=request_of(request_id_)), metadata=BEARER)
                events = [event async for event in call]
                assert events[-1].job.uid == 42
                assert (REPLAYED in {(each[0], each[1]) for each in await call.trailing_metadata()}) is replayed
        got = await scrape(gateway)
        assert got("jobgateway_submissions_replayed_total") == 2
        assert got("jobgateway_limit_used", limit="request_ids") == 1
    assert len(upstream.requests("POST")) == 2


async def test_gateways_share_ids_while_the_key_is_rotated(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    old, both = tmp_path / "old", tmp_path / "both"
    old.write_text("o" * 32)
    both.write_text("n" * 32 + "\n" + "o" * 32)
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", answer(200, {"uid": 42, "status": "running"}))
    url = f"sqlite://{tmp_path}/state.db"
    async with (
        running(upstream.url, state_url=url, state_key_file=old) as first,
        running(upstream.url, state_url=url, state_key_file=both) as second,
    ):
        for request_id, order in (("a", (first, second)), ("b", (second, first))):
            told = [await send(gateway.address, request_id) for gateway in order]
            assert [(each.uid, each.replayed) for each in told] == [(42, False), (42, True)]
    assert len(upstream.requests("POST")) == 2


async def test_an_ended_job_without_a_uid_replays_with_the_trailer(
    upstream: ScriptedUpstream, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    ended = {"status": "success", "result": {"data": [1, 2, 3]}, "completed_at": "2026-01-02T03:04:05Z"}
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(200, ended))
    async with running(upstream.url, **settings) as gateway, stub(gateway) as jobs:
        told = []
        for _ in range(2):
            call = jobs.SendJob(request_of(request.node.name), metadata=BEARER)
            job = await call
            told.append(
                (job.uid, job.done, job.status, REPLAYED in {(a, b) for a, b in await call.trailing_metadata()})
            )
    assert told == [(0, True, pb.JOB_STATUS_SUCCESS, False), (0, True, pb.JOB_STATUS_SUCCESS, True)]
    assert len(upstream.requests("POST")) == 1


@pytest.mark.tools
async def test_two_gateways_on_one_redis_make_one_job_of_twenty_sends(
    upstream: ScriptedUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32)
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", answer(200, {"uid": 42, "status": "running"}))
    shared: dict[str, Any] = {"state_url": redis.url, "state_key_file": key}
    async with running(upstream.url, **shared) as one, running(upstream.url, **shared) as other:
        sends = [send((one, other)[number % 2].address, "twenty") for number in range(20)]
        told = await asyncio.gather(*sends)
    assert {each.uid for each in told} == {42}
    assert sum(not each.replayed for each in told) == 1
    assert len(upstream.requests("POST")) == 1


@pytest.mark.tools
async def test_while_redis_is_down_only_calls_with_an_id_fail(
    upstream: ScriptedUpstream, own_redis: RedisServer, tmp_path: Path, logged: list[dict[str, object]]
) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 32)
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    running_job = answer(200, {"uid": 42, "status": "running"})
    upstream.on("GET", "/jobs/42/", running_job)
    own_redis.kill()
    async with running(upstream.url, state_url=own_redis.url, state_key_file=key) as gateway, stub(gateway) as jobs:
        watch: Any = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        assert (await watch.read()).job.uid == 42
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await jobs.SendJob(request_of("an-id"), metadata=BEARER)
        failure = Failure(raised.value)
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STATE_UNAVAILABLE")
        assert failure.retry.retry_delay.ToMilliseconds() == 1_000
        assert failure.trailers["grpc-retry-pushback-ms"] == "1000"
        assert not upstream.requests("POST")
        assert (await jobs.SendJob(request_of(""), metadata=BEARER)).uid == 42
        assert gateway.ready
        assert (await scrape(gateway))("jobgateway_state_available") == 0
        own_redis.start()

        async def sent() -> bool:
            return bool((await send(gateway.address, "an-id")).uid)

        async def available() -> bool:
            return (await scrape(gateway))("jobgateway_state_available") == 1

        await eventually(sent)
        await eventually(available)
        upstream.on("GET", "/jobs/42/", answer(200, {"uid": 42, "status": "success", "result": {}}))
        while not (await watch.read()).job.done:
            pass
    assert len(upstream.requests("POST")) == 2


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("memory", "must be memory:, sqlite:///PATH, redis://HOST:PORT/DATABASE"),
        ("memory://", "must be memory:, sqlite:///PATH, redis://HOST:PORT/DATABASE"),
        ("unix:///redis.sock", "must be memory:, sqlite:///PATH, redis://HOST:PORT/DATABASE"),
        ("postgres://host/db", "must be memory:, sqlite:///PATH, redis://HOST:PORT/DATABASE"),
        ("sqlite:", "must be sqlite:///PATH with the absolute path of a file"),
        ("sqlite:///", "must be sqlite:///PATH with the absolute path of a file"),
        ("sqlite:///folder/", "must be sqlite:///PATH with the absolute path of a file"),
        ("sqlite:///state.db?mode=ro", "and no options"),
        ("sqlite://host/state.db", "must be sqlite:///PATH with the absolute path of a file"),
        ("redis:", "must be redis://USER:PASSWORD@HOST:PORT/DATABASE"),
        ("redis://", "must be redis://USER:PASSWORD@HOST:PORT/DATABASE"),
        ("redis://host:99999", "must be redis://USER:PASSWORD@HOST:PORT/DATABASE"),
        ("redis://host/name", "in which DATABASE is a number"),
        ("redis:///run/redis.sock", "must be redis://USER:PASSWORD@HOST:PORT/DATABASE"),
        ("rediss://::1:6379/0", "must be rediss://USER:PASSWORD@HOST:PORT/DATABASE, .* IPv6 address in brackets"),
        ("redis://user:hunter2-secret@ho st/0", "must be redis://USER:PASSWORD@HOST:PORT/DATABASE"),
        ("redis://user:hunter2/secret@host/0", "write special characters of the password as in any URL"),
    ],
)
def test_a_wrong_url_is_refused_with_its_form(url: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why) as raised:
        Settings(upstream_url=URL, state_url=url, state_key_file="/key")
    assert "hunter2" not in raised.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    "url",
    [
        "memory:",
        "sqlite:///var/lib/jobgateway/state.db",
        "redis://localhost",
        "rediss://:pass%20word@redis.example.com:6380/15?ssl_ca_certs=/etc/ca.pem&wait_replicas=1",
        "redis://user:secret@[::1]:6379/0",
    ],
)
def test_a_right_url_is_accepted(url: str) -> None:
    assert Settings(upstream_url=URL, state_url=url, state_key_file="/key").state_url == url


def test_redis_needs_a_key_file() -> None:
    with pytest.raises(ValidationError, match="JOBGATEWAY_STATE_KEY_FILE: required with a redis URL, but not set"):
        Settings(upstream_url=URL, state_url="redis://localhost")


async def test_a_key_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    for url in ("memory:", f"sqlite://{tmp_path}/state.db", "redis://localhost"):
        with pytest.raises(ConfigError, match=r"JOBGATEWAY_STATE_KEY_FILE: .* cannot be read: No such file"):
            Gateway(Settings(upstream_url=URL, state_url=url, state_key_file=tmp_path / "nothing"))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"JOBGATEWAY_STATE_URL: the folder {tmp_path}/no does not exist; create it"):
        Gateway(Settings(upstream_url=URL, state_url=f"sqlite://{tmp_path}/no/state.db"))


async def test_a_database_without_its_key_stops_the_start(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    state_url = f"sqlite://{tmp_path}/state.db"
    async with running(upstream.url, state_url=state_url):
        pass
    key = tmp_path / "state.db.key"
    content = key.read_bytes()
    key.unlink()
    with pytest.raises(ConfigError, match=r"JOBGATEWAY_STATE_KEY_FILE: .*key of .*/state.db, is missing; restore it"):
        Gateway(Settings(upstream_url=URL, state_url=state_url))
    assert not key.exists()
    key.write_bytes(content)
    async with running(upstream.url, state_url=state_url):
        pass
