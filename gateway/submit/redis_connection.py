"""Commands to Redis: in batches, each within a time limit, with one line in the log when they begin to fail."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

import structlog
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from gateway.errors import ConfigError, StateUnavailable
from gateway.submit.files import AUTHORITIES, CERTIFICATE, KEY, check_tls_files
from gateway.submit.variables import STATE_URL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.submit.health import StoreHealth

# The longest time for a connection, and for a batch of commands with a connection if there is none, in seconds.
CONNECT_SECONDS = 2.0
COMMAND_SECONDS = 3.0
# The longest wait for the acknowledgement of replicas, in seconds.
WAIT_SECONDS = 1.0
MAX_BATCH = 256
MAX_CONNECTIONS = 8
MAX_WAIT_REPLICAS = 100
FILE_OPTIONS = frozenset({AUTHORITIES, CERTIFICATE, KEY})
OPTIONS = ", ".join(sorted({"cluster", "wait_replicas", *FILE_OPTIONS}))

# The errors of a Redis that cannot be used. That of a Cluster is outside of redis-py's own hierarchy.
FAILURES = (RedisError, RedisClusterException, OSError, TimeoutError)
PREFIX = "jobgateway:1"
# The beginning of scripts that need the time of the server, in milliseconds.
NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_log = structlog.get_logger()


class Script(NamedTuple):
    """A Lua script, which Redis runs as one step. It may run twice, if its first reply is lost."""

    text: str
    sha: str

    @classmethod
    def of(cls, text: str) -> Script:
        """Return the script with a text."""
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class _Command(NamedTuple):
    script: Script
    keys: Sequence[str]
    arguments: Sequence[bytes | str | int]
    future: asyncio.Future[Any]


class Target(NamedTuple):
    """A Redis and the way to use it: the URL for redis-py, and our own options, which come in its query."""

    url: str
    cluster: bool
    wait_replicas: int


def read_url(url: str) -> Target:
    """Return the target that a URL names.

    Raises:
        ConfigError: An option is unknown or has a wrong value. The message does not quote the URL.
    """
    parts = urlsplit(url)
    files = {}
    cluster, wait_replicas = False, 0
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name == "cluster" and value in ("true", "false"):
            cluster = value == "true"
        elif name == "wait_replicas" and value.isdecimal() and int(value) <= MAX_WAIT_REPLICAS:
            wait_replicas = int(value)
        elif name in FILE_OPTIONS:
            files[name] = value
        else:
            raise ConfigError(f"{STATE_URL}: unknown option or wrong value: {name[:50]}; use {OPTIONS}")
    if cluster and wait_replicas:
        raise ConfigError(f"{STATE_URL}: wait_replicas does not work with cluster=true; remove one of them")
    database = parts.path[1:]
    if cluster and int(database or 0):
        raise ConfigError(f"{STATE_URL}: a Cluster has only the database 0 (got {database}); write /0")
    if files and parts.scheme.lower() != "rediss":
        raise ConfigError(f"{STATE_URL}: {min(files)} is for TLS only; write rediss:// or remove it")
    check_tls_files(STATE_URL, files)
    options = "&".join(f"{name}={quote(path)}" for name, path in files.items())
    plain = urlunsplit((parts.scheme.lower(), parts.netloc, parts.path, options, ""))
    return Target(plain, cluster, wait_replicas)


class RedisConnection:
    """Runs scripts on one Redis, or on a Cluster.

    Commands that arrive while a batch is on its way go together in the next one, over the same connection.
    """

    def __init__(self, target: Target, health: StoreHealth) -> None:
        self._wait_replicas = target.wait_replicas
        self._cluster = target.cluster
        self._client: Any = _client(target)
        self._link: Any = None
        self._health = health
        self._waiting: list[_Command] = []
        self._sending: asyncio.Task[None] | None = None

    async def run(self, script: Script, keys: Sequence[str], *arguments: bytes | str | int) -> Any:
        """Run a script and return its reply.

        Raises:
            StateUnavailable: There is no reply, or an error. The script may have run or not.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(_Command(script, keys, arguments, future))
        if self._sending is None:
            self._sending = loop.create_task(self._send_all())
        return await future

    async def info(self) -> dict[str, Any]:
        """Return the facts that a Redis tells about itself; of a Cluster, those of one node."""
        async with asyncio.timeout(COMMAND_SECONDS):
            if isinstance(self._client, RedisCluster):
                # It may have been closed after a failure, and has no nodes then.
                await self._client.initialize()
                return dict(await self._client.info(target_nodes=self._client.get_random_node()))
            return dict(await self._client.info())

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                replies: list[Any] = []
                try:
                    replies = await self._replies(batch)
                finally:
                    if not replies:
                        # The commands behind this batch would wait as long again.
                        batch, self._waiting = batch + self._waiting, []
                        replies = [_unavailable() for _ in batch]
                    _hand_out(batch, replies)
        finally:
            self._sending = None

    async def _replies(self, batch: Sequence[_Command]) -> list[Any]:
        """Return the replies to a batch, or none if it fails as a whole."""
        try:
            async with asyncio.timeout(COMMAND_SECONDS):
                replies = await self._send_twice(batch)
                why = next((_why(each) for each in replies if isinstance(each, Exception)), "")
                if why:
                    # After a failover, the address may lead to another server.
                    await self._reconnect()
        except FAILURES as error:
            why, replies = _why(error), []
        if why:
            self._health.failed(why)
        return [_unavailable() if isinstance(each, Exception) else each for each in replies]

    async def _reconnect(self) -> None:
        if self._link is not None:
            await self._link.disconnect(nowait=True)
        else:
            await self._client.aclose()

    async def _send_twice(self, batch: Sequence[_Command]) -> list[Any]:
        try:
            return await self._send(batch)
        except (RedisConnectionError, ConnectionError):
            # The connection may have been closed while it was idle.
            return await self._send(batch)

    async def _send(self, batch: Sequence[_Command]) -> list[Any]:
        replies = await self._pipeline(batch)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            for script in {command.script for command in batch}:
                await self._client.script_load(script.text)
            replies = await self._pipeline(batch)
        return replies

    async def _pipeline(self, batch: Sequence[_Command]) -> list[Any]:
        commands: list[tuple[Any, ...]] = [
            ("EVALSHA", script.sha, len(keys), *keys, *arguments) for script, keys, arguments, _ in batch
        ]
        if self._wait_replicas:
            commands.append(("WAIT", self._wait_replicas, int(WAIT_SECONDS * 1000)))
        replies = await (self._to_cluster(commands) if self._cluster else self._to_server(commands))
        if self._wait_replicas:
            acknowledged = replies.pop()
            if isinstance(acknowledged, Exception) or acknowledged < self._wait_replicas:
                raise ResponseError(f"{acknowledged} of {self._wait_replicas} replicas acknowledged")
        return replies

    async def _to_cluster(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))

    async def _to_server(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        # On a connection of our own, because redis-py's pool and pipeline cost 200 µs for each batch.
        link = self._link = self._link or self._client.connection_pool.make_connection()
        try:
            if not link.is_connected:
                await link.connect()
            await link.send_packed_command(_pack(link, commands), check_health=False)
            return [await _reply(link) for _ in commands]
        except BaseException:
            # A reply that comes late must not be taken for that of the next command.
            await link.disconnect(nowait=True)
            raise

    async def aclose(self) -> None:
        """Close the connections."""
        if self._link is not None:
            await self._link.disconnect(nowait=True)
        if self._sending is not None:
            await asyncio.wait([self._sending])
        await self._client.aclose()


def _client(target: Target) -> Redis | RedisCluster:
    # Repetitions are ours to make, within our own time limit.
    never = Retry(NoBackoff(), 0)
    options: dict[str, Any] = {
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_SECONDS,
        "max_connections": MAX_CONNECTIONS,
        "client_name": "jobgateway",
        "protocol": 2,
        "retry": never,
    }
    try:
        if target.cluster:
            return RedisCluster.from_url(target.url, **options)
        return Redis.from_url(target.url, **options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{STATE_URL}: redis-py cannot use it: {type(error).__name__}") from None


def _pack(link: Any, commands: Sequence[tuple[Any, ...]]) -> list[bytes]:
    packed: list[bytes] = link.pack_commands(commands)
    return packed


def _hand_out(batch: Sequence[_Command], replies: Sequence[Any]) -> None:
    for command, reply in zip(batch, replies, strict=True):
        if command.future.done():
            continue
        if isinstance(reply, Exception):
            command.future.set_exception(reply)
        else:
            command.future.set_result(reply)


async def _reply(link: Any) -> Any:
    try:
        return await link.read_response()
    except ResponseError as error:
        return error


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no reply within {COMMAND_SECONDS:g} s"
    return f"{type(error).__name__}: {str(error)[:200]}"


def _unavailable() -> StateUnavailable:
    return StateUnavailable(
        "request_id: its store does not respond, and nothing was sent; retry later, or send a first attempt without one"
    )
