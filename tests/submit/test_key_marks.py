"""Gateways on one store that have different secret keys, and the rotation of a key."""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import ConfigError, StateUnavailable
from gateway.submit import Claim, IdempotencyKey, RequestKeys
from gateway.submit.health import StoreHealth
from gateway.submit.store import KeyDiffers
from tests.submit.fleet import send
from tests.submit.stores import Harness, harness
from tests.support.gateways import running
from tests.support.paths import ROOT
from tests.support.redis import eventually
from tests.support.scraping import scrape
from tests.support.upstream import ScriptedUpstream, answer

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.submit import IdempotencyStore
    from tests.support.redis import RedisServer

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
MARK = b"m" * 16
HOURS = 3_600.0
PAGE = (ROOT / "docs/operations/request-ids.md").read_text()
fences = itertools.count()

durable = pytest.mark.parametrize(
    "place", ["sqlite", pytest.param("redis", marks=pytest.mark.tools)], indirect=True, ids=str
)


def marks(*lines: bytes) -> tuple[str, ...]:
    return RequestKeys(*lines).marks


async def take(store: IdempotencyStore) -> object:
    fence = next(fences)
    return await store.claim(Claim(IdempotencyKey(b"a" * 16, b"%016d" % fence), fence), MARK, 100.0)


async def starts(place: Harness, *lines: bytes) -> bool:
    """Return whether a gateway with a key file of `lines` can be used."""
    health = StoreHealth(place.clock)
    try:
        await take(place.open(marks(*lines), health))
    except (KeyDiffers, ConfigError):
        return False
    finally:
        health.close()
    return True


@durable
async def test_a_gateway_with_another_key_is_refused_for_25_hours(place: Harness) -> None:
    assert await starts(place, A)
    assert not await starts(place, B)
    assert not await starts(place, B, C)
    await place.pass_time(25 * HOURS - 60)
    assert not await starts(place, B)
    await place.pass_time(120)
    assert await starts(place, B)
    assert not await starts(place, A)


@durable
async def test_a_rotation_passes_in_every_order_of_replicas(place: Harness) -> None:
    names = (b"%032d" % number for number in itertools.count())
    old = next(names)
    fleet = [place.open(marks(old)) for _ in range(3)]
    for order in itertools.permutations(range(3)):
        new = next(names)
        # The lines may be in the wrong order on some of them.
        for lines in ((new, old), (old, new), (new, old)), ((new,),) * 3:
            for number in order:
                # Each may restart at any time, with the file that it has.
                fleet[number] = place.open(marks(*lines[number]))
                for store in fleet:
                    await place.compare_keys(store)
                    assert await take(store) is None
            await place.pass_time(25 * HOURS + 60)
            for store in fleet:
                await place.compare_keys(store)
        old = new
    assert place.health.available


@durable
async def test_a_rotation_may_be_taken_back(place: Harness) -> None:
    for lines in ((A,), (B, A), (A,), (B, A)):
        assert await starts(place, *lines)
    await place.pass_time(25 * HOURS + 60)
    for lines in ((B, A), (B,), (B, A)):
        assert await starts(place, *lines)
    # Gateways that have only the new key would not find its ids.
    assert not await starts(place, A)


@durable
async def test_a_second_line_that_is_removed_too_early_is_refused(place: Harness) -> None:
    assert await starts(place, A)
    await place.pass_time(10 * HOURS)
    assert await starts(place, B, A)
    await place.pass_time(14 * HOURS)
    assert not await starts(place, B)
    assert await starts(place, B, A)
    await place.pass_time(2 * HOURS)
    assert await starts(place, B)
    assert not await starts(place, A)


@durable
async def test_of_two_keys_at_the_same_moment_one_is_used(place: Harness) -> None:
    assert sorted(await asyncio.gather(starts(place, A), starts(place, B))) == [False, True]


@durable
async def test_a_running_gateway_notices_another_key_and_recovers(
    place: Harness, logged: list[dict[str, object]]
) -> None:
    store = place.open(marks(A))
    await take(store)
    await place.pass_time(25 * HOURS + 60)
    assert await starts(place, B)
    with pytest.raises(KeyDiffers):
        await place.compare_keys(store)
    for _ in range(3):
        with pytest.raises(KeyDiffers, match="another secret key than those before it, and nothing was sent"):
            await take(store)
    health: Any = place.health
    assert not health.available
    assert [(each["event"], each["log_level"]) for each in logged] == [("state.key_differs", "error")]
    assert logged[0]["setting"] == "JOBGATEWAY_STATE_KEY_FILE"
    await place.pass_time(25 * HOURS + 60)
    assert await take(store) is None
    while not health.available:
        await place.clock.advance(1.0)
        await asyncio.sleep(0.001)
    assert [each["event"] for each in logged[1:]] == ["state.available"]


async def test_an_idle_sqlite_gateway_compares_keys_before_it_claims(
    tmp_path: Path, logged: list[dict[str, object]]
) -> None:
    async with harness("sqlite", tmp_path, None) as place:
        store: Any = place.open(marks(A))
        await place.pass_time(25 * HOURS + 60)
        # A transaction that fails writes no keys, although it has compared them.
        database = store._records._database  # noqa: SLF001 - the disk of this test
        database.execute(
            "CREATE TEMP TRIGGER broken BEFORE INSERT ON main.records BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        with pytest.raises(StateUnavailable, match=r"cannot be used \(no\)"):
            await take(store)
        database.execute("DROP TRIGGER broken")
        assert await starts(place, B)
        with pytest.raises(KeyDiffers):
            await take(store)
    assert [each["event"] for each in logged] == ["state.unavailable", "state.key_differs"]


async def test_sqlite_with_another_key_stops_the_start(tmp_path: Path) -> None:
    async with harness("sqlite", tmp_path, None) as place:
        place.open(marks(A))
        with pytest.raises(
            ConfigError, match=r"JOBGATEWAY_STATE_KEY_FILE: .*/state.db has request ids of another key; "
        ):
            place.open(marks(B))


@pytest.mark.tools
async def test_a_redis_that_lost_its_data_is_used_again(own_redis: RedisServer, tmp_path: Path) -> None:
    async with harness("redis", tmp_path, own_redis) as place:
        fleet = [place.open(marks(*lines)) for lines in ((A,), (A,), (B, A))]
        for first in range(3):
            for store in fleet:
                assert await take(store) is None
            own_redis.kill()
            own_redis.empty()
            own_redis.start()
            for store in fleet[first:] + fleet[:first]:
                await place.compare_keys(store)
        assert place.health.available


@pytest.mark.tools
async def test_the_documented_command_forgets_the_old_key(
    upstream: ScriptedUpstream, own_redis: RedisServer, tmp_path: Path, logged: list[dict[str, object]]
) -> None:
    (command,) = re.findall(r"^redis-cli -u .* (DEL .*)$", PAGE, re.MULTILINE)
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", answer(200, {"uid": 42, "status": "running"}))
    files = {line: tmp_path / line[:1].decode() for line in (A, B)}
    for line, file in files.items():
        file.write_bytes(line)
    async with running(upstream.url, state_url=own_redis.url, state_key_file=files[A]) as gateway:
        assert (await send(gateway.address, "first")).uid == 42
    async with running(upstream.url, state_url=own_redis.url, state_key_file=files[B]) as gateway:
        for _ in range(2):
            refused = await send(gateway.address, "first")
            assert (refused.reason, refused.retry) == ("STATE_UNAVAILABLE", True)
        assert (await scrape(gateway))("jobgateway_state_available") == 0
        assert (await send(gateway.address, "")).uid == 42
        assert [each["event"] for each in logged if str(each["event"]).startswith("state.")] == ["state.key_differs"]
        await own_redis.ask(*command.split())
        assert (await send(gateway.address, "first")).uid == 42

        async def available() -> bool:
            return (await scrape(gateway))("jobgateway_state_available") == 1

        await eventually(available)
    assert len(upstream.requests("POST")) == 3
    assert not any(text in str(logged) for text in ("aaaa", "bbbb"))
