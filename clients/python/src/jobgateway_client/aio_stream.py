"""One streaming call of the asyncio client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client import calls
from jobgateway_client.errors import GatewayError, from_rpc_error, from_status, silent_stream, stream_without_end

if TYPE_CHECKING:
    from jobgateway_client.aio_connections import Connection, Connections


class Stream:
    """A call over a connection, which it releases when it is closed.

    Attributes:
        token: The token of the call.
        connection: The connection.
        replayed: True if the trailers say that the job was sent earlier.

    """

    def __init__(
        self, connections: Connections, connection: Connection, call: Any, token: str | None, on_close: calls.OnClose
    ) -> None:
        self.token = token
        self.connection = connection
        self.replayed = False
        self._connections = connections
        self._call = call
        self._on_close = on_close
        self._closed = False
        # The status as it arrived. If a write fails afterwards, grpc.aio raises INTERNAL instead (grpc/grpc#36066),
        # usually if there are many requests.
        self._status: GatewayError | None = None
        self._reading: asyncio.Task[object] | None = None
        self._silent_seconds = 0.0
        if isinstance(call, grpc.aio.StreamStreamCall):
            # Its callback keeps a call until a garbage collection, and only a call that writes can lose its status.
            call.add_done_callback(self._done)

    async def next(self, limit: float) -> pb.JobEvent | GatewayError:
        """Return the next event, or the reason why there is none.

        The longest silence is `limit` seconds, without the time in which nobody waits for an event. If the caller is
        cancelled, the next call continues.
        """
        if self._reading is None:
            self._reading = asyncio.create_task(self._call.read())
            self._reading.add_done_callback(_retrieve)
        began = time.monotonic()
        try:
            # Unlike `wait_for`, it cancels no read, because that would cancel the call.
            await asyncio.wait({self._reading}, timeout=max(0.0, limit - self._silent_seconds))
        finally:
            self._silent_seconds += time.monotonic() - began
        if not self._reading.done():
            return silent_stream(limit)
        outcome = await self._outcome(self._reading)
        self._reading = None
        self._silent_seconds = 0.0
        return outcome

    def close(self) -> None:
        """Cancel the call, and release its connection. This ends a `next` in another task."""
        if not self._closed:
            self._closed = True
            # A call that was merely abandoned stays open (grpc/grpc#43462).
            self._call.cancel()
            # The call refers to this object: as a cycle, both would keep the connection until a garbage collection.
            self._call = None
            self._on_close()
            self._connections.release(self.connection)

    def abandon(self) -> None:
        """Close the stream from any thread, or after the end of the event loop."""
        loop = self._connections.closing.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(self.close)

    async def _outcome(self, reading: asyncio.Task[object]) -> pb.JobEvent | GatewayError:
        if reading.cancelled():
            # By `close`, or by that of the client.
            return self._status or calls.closed_error()
        # Not raised here: its traceback would refer to the call, and keep its connection until a garbage collection.
        error = reading.exception()
        if isinstance(error, grpc.RpcError):
            return self._status or from_rpc_error(error)
        if isinstance(error, grpc.aio.UsageError) and self._connections.closed:
            return calls.closed_error()
        event = reading.result()
        if isinstance(event, pb.JobEvent):
            return event
        self.replayed = calls.is_replayed(await self._call.trailing_metadata())
        return stream_without_end()

    def _done(self, call: Any) -> None:
        code, details, trailers = map(_completed, (call.code(), call.details(), call.trailing_metadata()))
        if code is grpc.StatusCode.OK:
            self._status = stream_without_end()
        else:
            self._status = from_status(code, details, trailers)


def _completed(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the call is not done")


def _retrieve(reading: asyncio.Task[object]) -> None:
    # Otherwise asyncio logs the error of a read for which nobody waits.
    if not reading.cancelled():
        reading.exception()
