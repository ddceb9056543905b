from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from redis import Redis

from tests.submit.stores import Harness, harness
from tests.support.redis import RedisServer, need_redis

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def redis_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the whole run."""
    need_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis(redis_of_the_run: RedisServer) -> RedisServer:
    """An empty Redis. Tests that stop it start their own."""
    # Gateways refuse one that others use with another key.
    with Redis.from_url(redis_of_the_run.url) as client:
        client.flushall()
    return redis_of_the_run


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may kill."""
    need_redis()
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.tools)])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    """Each kind of store in turn."""
    server = request.getfixturevalue("redis") if request.param == "redis" else None
    async with harness(request.param, tmp_path, server) as made:
        yield made
