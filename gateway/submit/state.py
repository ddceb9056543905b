"""The state that a gateway keeps outside of its memory: the store that a URL names, its keys and its health."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gateway.errors import ConfigError
from gateway.submit.health import StoreHealth
from gateway.submit.keys import random_keys, read_keys, read_or_create_keys
from gateway.submit.memory_store import InMemoryIdempotencyStore
from gateway.submit.rotation import RotatingStore
from gateway.submit.sealing import SealingStore
from gateway.submit.sqlite_store import SqliteIdempotencyStore
from gateway.submit.variables import KEY_FILE, STATE_URL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gateway.clock import Clock
    from gateway.limits.fair_budget import Usage
    from gateway.limits.holds import Holds
    from gateway.submit.keys import RequestKeys
    from gateway.submit.store import CountedStore, IdempotencyStore

SQLITE = "sqlite://"
NO_REDIS = f"{STATE_URL}: Redis needs an extra that is not installed: pip install 'jobgateway[redis]'"


class Background(Protocol):
    """Work of a store in the background."""

    def start(self) -> None:
        """Begin."""

    async def aclose(self) -> None:
        """End; this may be repeated."""


class State:
    """A store, the keys of its ids, its health, and how full it is as `counted` knows."""

    def __init__(
        self,
        store: IdempotencyStore,
        counted: CountedStore,
        keys: RequestKeys,
        health: StoreHealth,
        background: Sequence[Background] = (),
    ) -> None:
        self.store: IdempotencyStore = RotatingStore(store) if keys.rotating else store
        self._counted = counted
        self.keys = keys
        self.health = health
        self._background = background

    @property
    def usage(self) -> Usage:
        """See `CountedStore`."""
        return self._counted.usage

    def start(self) -> None:
        """Begin to look at the store, without waiting for it."""
        for each in self._background:
            each.start()

    async def aclose(self) -> None:
        """Close the store."""
        self.health.close()
        for each in reversed(self._background):
            await each.aclose()
        await self.store.aclose()


def open_state(url: str, key_file: Path | None, clock: Clock, holds: Holds) -> State:
    """Open the store that `url` names. With Redis, the fleet shares `holds`.

    Raises:
        ConfigError: The store or the key file cannot be used. An unreachable Redis is no such error.
    """
    health = StoreHealth(clock)
    if url.lower().startswith(SQLITE):
        # The URL has no host, so the path begins with the third slash.
        path = Path(url[len(SQLITE) :])
        keys = read_keys(key_file) if key_file else _keys_beside(path)
        sqlite_store = SqliteIdempotencyStore(path, keys.marks, clock, health)
        return State(SealingStore(sqlite_store), sqlite_store, keys, health)
    if url.lower().startswith("redis"):
        try:
            # Here, because redis-py is an optional dependency.
            from gateway.submit.redis_holds import SharedHolds
            from gateway.submit.redis_store import open_redis
        except ImportError:
            raise ConfigError(NO_REDIS) from None

        assert key_file is not None, "the settings require it"  # noqa: S101 - a bug of ours
        keys = read_keys(key_file)
        redis_store = open_redis(url, keys.marks, clock, health)
        shared = SharedHolds(redis_store.connection, clock, holds)
        return State(SealingStore(redis_store), redis_store, keys, health, (redis_store, shared))
    memory_store = InMemoryIdempotencyStore(clock)
    return State(memory_store, memory_store, read_keys(key_file) if key_file else random_keys(), health)


def check_state(url: str, key_file: Path | None) -> Iterator[str]:
    """Yield why `open_state` would fail, as far as that shows without a connection and without creating a file."""
    if key_file:
        yield from _problem_of(lambda: read_keys(key_file))
    if url.lower().startswith(SQLITE):
        database = Path(url[len(SQLITE) :])
        if not key_file:
            yield from _problem_of(lambda: _read_keys_beside(database))
        # Not with Path.exists, which raises for a folder that may not be entered.
        there = [each for each in (database.parent, database) if os.path.exists(each)]  # noqa: PTH110
        if not there and key_file:
            yield _no_folder(database)
        for each in there:
            # SQLite creates files beside the database, so it needs the folder too.
            if not os.access(each, os.R_OK | os.W_OK):
                yield f"{STATE_URL}: {each} cannot be written; check its permissions, and that it is not read-only"
    elif url.lower().startswith("redis") and importlib.util.find_spec("redis") is None:
        yield NO_REDIS


def _problem_of(work: Callable[[], object]) -> Iterator[str]:
    try:
        work()
    except ConfigError as error:
        yield from error.args


def _no_folder(database: Path) -> str:
    return f"{STATE_URL}: the folder {database.parent} does not exist; create it"


def _keys_beside(database: Path) -> RequestKeys:
    return _read_keys_beside(database) or read_or_create_keys(_key_file_of(database))


def _key_file_of(database: Path) -> Path:
    return database.with_name(f"{database.name}.key")


def _read_keys_beside(database: Path) -> RequestKeys | None:
    """Return the keys of a database, or None if they may be created."""
    file = _key_file_of(database)
    try:
        has_folder = database.parent.exists()
        # The key is created before the database. With a new one, all ids would be free again.
        lost_key = database.is_file() and database.stat().st_size > 0 and not file.exists()
    except OSError as error:
        raise ConfigError(f"{STATE_URL}: {database} cannot be used: {error.strerror}") from None
    if not has_folder:
        raise ConfigError(_no_folder(database))
    if lost_key:
        raise ConfigError(
            f"{KEY_FILE}: {file}, the key of {database}, is missing; restore it, or delete the database "
            "to forget its request ids"
        )
    return read_keys(file) if file.exists() else None
