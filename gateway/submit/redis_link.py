"""One connection to a Redis, without the streams of redis-py: they take three times the CPU of everything else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis.asyncio import Connection

LOST = "the connection was lost"
SURPLUS = "the server sent more replies than it got commands"


class RedisLink(asyncio.Protocol):
    """Sends one batch of commands at a time over a connection, and collects the replies.

    Args:
        connection: A connection that redis-py has opened, with TLS, user and database. This takes over its transport.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=ResponseError)
        self._replies: list[Any] = []
        self._expected = 0
        self._done: asyncio.Future[list[Any]] | None = None
        writer = connection._writer  # noqa: SLF001 - redis-py has no other way to its transport
        assert writer is not None, "the connection is open"  # noqa: S101 - a bug of ours
        self._transport = writer.transport
        self._transport.set_protocol(self)
        self.open = True

    async def run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send commands and return their replies, errors among them.

        Raises:
            RedisConnectionError: The connection is lost.
            InvalidResponse: The server does not speak the protocol of Redis.
        """
        if not self.open:
            raise RedisConnectionError(LOST)
        self._replies, self._expected = [], len(commands)
        self._done = asyncio.get_running_loop().create_future()
        self._transport.writelines(self._connection.pack_commands(commands))
        return await self._done

    def data_received(self, data: bytes) -> None:
        """Read replies."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._replies.append(reply)
        except InvalidResponse as error:
            self._end(error)
            return
        if len(self._replies) > self._expected:
            # Later commands must not get a reply that no command asked for.
            self._end(InvalidResponse(SURPLUS))
            return
        if self._done is not None and len(self._replies) == self._expected:
            replies, self._replies, self._expected = self._replies, [], 0
            if not self._done.done():
                self._done.set_result(replies)

    def connection_lost(self, _: Exception | None) -> None:
        """Fail the batch that waits."""
        self._end(RedisConnectionError(LOST))

    def _end(self, error: Exception) -> None:
        self.open = False
        self._transport.abort()
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    async def close(self) -> None:
        """Close the connection, whatever it still has to send."""
        self._transport.abort()
        await self._connection.disconnect(nowait=True)
