"""Each store with a way to let time pass in it, used by the conformance suite and the tests of the submitter."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from gateway.submit.health import StoreHealth
from gateway.submit.memory_store import InMemoryIdempotencyStore
from gateway.submit.redis_store import KEYS_KEY, TOTAL_KEY, RedisIdempotencyStore, open_redis
from gateway.submit.sqlite_store import SqliteIdempotencyStore
from tests.support.clock import SteppedClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from gateway.submit import IdempotencyStore
    from tests.support.redis import RedisServer

HOUR_MS = 3_600_000
MARKS = ("of-one-key",)


class Harness:
    """One place to store records, and stores of several gateways on it."""

    def __init__(self, kind: str, folder: Path, redis: RedisServer | None) -> None:
        self.kind = kind
        self.clock = SteppedClock()
        self.health = StoreHealth(self.clock)
        self._folder = folder
        self._redis = redis
        self._stack = AsyncExitStack()
        self._memory = InMemoryIdempotencyStore(self.clock)

    @property
    def url(self) -> str:
        """The setting that names this place."""
        if self.kind == "sqlite":
            return f"sqlite://{self._folder}/state.db"
        return "memory:" if self._redis is None else self._redis.url

    def open(self, marks: Sequence[str] = MARKS, health: StoreHealth | None = None) -> IdempotencyStore:
        """Return a store, as another gateway would open it."""
        health = health or self.health
        store: Any = self._memory
        if self.kind == "sqlite":
            store = SqliteIdempotencyStore(self._folder / "state.db", marks, self.clock, health)
        elif self.kind == "redis":
            assert self._redis is not None
            store = open_redis(self._redis.url, marks, self.clock, health)
        self._stack.push_async_callback(store.aclose)
        return store  # type: ignore[no-any-return]

    async def pass_time(self, seconds: float) -> None:
        """Let time pass. The records in Redis age instead, because the server has its own clock."""
        self.clock.now += seconds
        if self.kind != "redis":
            return
        assert self._redis is not None
        async with self._redis.client() as client:
            for key in await client.keys("jobgateway:1:*"):
                left = await client.pttl(key) - int(seconds * 1000)
                if left <= 0:
                    await client.delete(key)
                    continue
                await client.pexpire(key, left)
                if key == KEYS_KEY.encode():
                    await self._age_keys(client, seconds)
                    continue
                until = await client.hget(key, "until")
                if until is not None:
                    await client.hset(key, "until", int(until) - int(seconds * 1000))
                else:
                    await self._age_counts(client, key, round(seconds * 1000 / HOUR_MS))

    async def _age_counts(self, client: Any, key: bytes, hours: int) -> None:
        for hour, number in (await client.hgetall(key)).items():
            if hour.isdigit():
                await client.hdel(key, hour)
                await client.hset(key, int(hour) - hours, number)

    async def _age_keys(self, client: Any, seconds: float) -> None:
        for marks, expires in (await client.hgetall(KEYS_KEY)).items():
            await client.hset(KEYS_KEY, marks, int(expires) - int(seconds * 1000))

    async def compare_keys(self, store: IdempotencyStore) -> None:
        """Let a store compare its keys with those in use."""
        if isinstance(store, RedisIdempotencyStore):
            await store._use_keys()  # noqa: SLF001 - as it does every 5 seconds
        elif isinstance(store, SqliteIdempotencyStore):
            await store._probe()  # noqa: SLF001 - as it does after a failure

    async def see_total(self, store: IdempotencyStore) -> None:
        """Let a store see how many records there are in all."""
        if isinstance(store, RedisIdempotencyStore):
            await store._count_total()  # noqa: SLF001 - as it does every 5 seconds

    async def aclose(self) -> None:
        await self._stack.aclose()
        self.health.close()


@asynccontextmanager
async def harness(kind: str, folder: Path, redis: RedisServer | None) -> AsyncIterator[Harness]:
    made = Harness(kind, folder, redis)
    if redis is not None:
        async with redis.client() as client:
            await client.flushall()
    try:
        yield made
    finally:
        await made.aclose()


__all__ = ["MARKS", "TOTAL_KEY", "Harness", "harness"]
