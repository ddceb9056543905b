"""The state that a gateway keeps outside of its memory: the store that a URL names, its keys and its health."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import ConfigError
from gateway.submit.health import StoreHealth
from gateway.submit.keys import random_keys, read_keys, read_or_create_keys
from gateway.submit.memory_store import InMemoryIdempotencyStore
from gateway.submit.rotation import RotatingStore
from gateway.submit.sealing import SealingStore
from gateway.submit.sqlite_store import SqliteIdempotencyStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import Clock
    from gateway.submit.keys import RequestKeys
    from gateway.submit.store import IdempotencyStore

SQLITE = "sqlite://"


class State:
    """A store, the keys of its ids, and its health."""

    def __init__(
        self, store: IdempotencyStore, keys: RequestKeys, health: StoreHealth, begin: Callable[[], None] | None = None
    ) -> None:
        self.store: IdempotencyStore = RotatingStore(store) if keys.rotating else store
        self.keys = keys
        self.health = health
        self._begin = begin

    def start(self) -> None:
        """Begin to look at the store, without waiting for it."""
        if self._begin is not None:
            self._begin()

    async def aclose(self) -> None:
        """Close the store."""
        self.health.close()
        await self.store.aclose()


def open_state(url: str, key_file: Path | None, clock: Clock) -> State:
    """Open the store that `url` names.

    Raises:
        ConfigError: The store or the key file cannot be used. An unreachable Redis is no such error.
    """
    health = StoreHealth(clock)
    if url.lower().startswith(SQLITE):
        # The URL has no host, so the path begins with the third slash.
        path = Path(url[len(SQLITE) :])
        keys = read_keys(key_file) if key_file else read_or_create_keys(path.with_name(f"{path.name}.key"))
        sqlite_store = SqliteIdempotencyStore(path, clock, health)
        return State(SealingStore(sqlite_store), keys, health)
    if url.lower().startswith("redis"):
        try:
            # Here, because redis-py is an optional dependency.
            from gateway.submit.redis_store import open_redis
        except ImportError:
            raise ConfigError(
                "JOBGATEWAY_STATE_URL: Redis needs an extra that is not installed: pip install 'jobgateway[redis]'"
            ) from None

        assert key_file is not None, "the settings require it"  # noqa: S101 - a bug of ours
        redis_store = open_redis(url, clock, health)
        return State(SealingStore(redis_store), read_keys(key_file), health, redis_store.start)
    return State(InMemoryIdempotencyStore(clock), read_keys(key_file) if key_file else random_keys(), health)
