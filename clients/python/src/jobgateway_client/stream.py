"""One streaming call of the sync client, which is cancelled if an event takes too long.

gRPC's sync iterators have no timeout.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client import calls
from jobgateway_client.errors import GatewayError, from_rpc_error, silent_stream, stream_without_end

if TYPE_CHECKING:
    from jobgateway_client.connections import Connection, Connections


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
        self._changed = threading.Condition()
        self._closed = False
        self._given_up = False
        # In seconds; the time until which an event is expected, if one is.
        self._limit = 0.0
        self._until: float | None = None

    def next(self, limit: float) -> pb.JobEvent | GatewayError:
        """Return the next event, or the reason why there is none. The longest silence is `limit` seconds."""
        try:
            event = self._read(limit)
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
        else:
            if isinstance(event, pb.JobEvent):
                return event
            self.replayed = not self._given_up and calls.is_replayed(self._call.trailing_metadata())
            error = stream_without_end()
        # Silence counts, whatever status arrived before the call was cancelled.
        return silent_stream(limit) if self._given_up else error

    def cancel(self) -> None:
        """Cancel the call. This ends a `next` in another thread."""
        self._call.cancel()

    def close(self) -> None:
        """Cancel the call, and release its connection."""
        with self._changed:
            closed, self._closed = self._closed, True
            self._changed.notify()
        if not closed:
            # A call that was merely abandoned stays open (grpc/grpc#43462).
            self._call.cancel()
            self._on_close()
            self._connections.release(self.connection)

    def _read(self, limit: float) -> object:
        self._until = time.monotonic() + limit
        if limit != self._limit:
            self._set(limit)
        try:
            return next(self._call, None)
        except RuntimeError as error:
            # Ctrl-C while `threading.Condition.wait` has released its lock is replaced by this error.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise
        finally:
            self._until = None

    def _set(self, limit: float) -> None:
        with self._changed:
            if not self._limit:
                # One thread for the call, not a timer for each event.
                threading.Thread(target=self._guard, daemon=True).start()
            self._limit = limit
            self._changed.notify()

    def _guard(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                until = self._until
                if until is not None and now >= until:
                    break
                # A deadline that `next` sets meanwhile is later than the end of this wait.
                self._changed.wait(self._limit if until is None else until - now)
            else:
                return
        self._given_up = True
        self._call.cancel()
