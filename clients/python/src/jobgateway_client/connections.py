"""The connections and the token of the sync client, which all its calls share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

import grpc
from jobgateway.v1 import job_service_pb2_grpc as rpc

from jobgateway_client import calls

if TYPE_CHECKING:
    from jobgateway_client.tls import Tls

Token: TypeAlias = str | Callable[[], str | None]
"""A token, or a function that returns one.

The function is called before the first call, and again whenever the gateway rejects the token. It returns None if there
is no (other) token: a first call is then made without one, and a rejected call fails.
"""


class Connection:
    """A channel, and the number of calls over it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.stub: calls.Stub = rpc.JobServiceStub(channel)
        self.calls = 0


class Connections:
    """The current connection of a client, and the older ones that still have calls.

    Several calls share a connection. The first of them that finds it broken replaces it for all; the old one is closed
    after its last call, because closing it earlier would cancel its other calls.
    """

    def __init__(self, target: str, tls: Tls | None, options: list[tuple[str, int | str]]) -> None:
        self.closed = False
        self._target = target
        self._credentials = None if tls is None else tls.credentials()
        self._options = options
        self._lock = threading.Lock()
        self._current = self._connect()
        self._used = {self._current}

    def _connect(self) -> Connection:
        if self._credentials is None:
            return Connection(grpc.insecure_channel(self._target, self._options))
        return Connection(grpc.secure_channel(self._target, self._credentials, self._options))

    @contextmanager
    def lease(self) -> Iterator[Connection]:
        """Use the current connection for one call.

        Raises:
            GatewayError: The client was closed.

        """
        with self._lock:
            if self.closed:
                raise calls.closed_error()
            connection = self._current
            connection.calls += 1
        try:
            yield connection
        finally:
            with self._lock:
                connection.calls -= 1
                unused = not connection.calls and connection is not self._current and connection in self._used
                if unused:
                    self._used.remove(connection)
            if unused:
                connection.channel.close()

    def replace(self, connection: Connection) -> None:
        """Use a new connection from now on, unless another call has already replaced this one."""
        with self._lock:
            if self.closed or connection is not self._current:
                return
            self._current = self._connect()
            self._used.add(self._current)
            unused = not connection.calls
            if unused:
                self._used.remove(connection)
        if unused:
            connection.channel.close()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self.closed = True
            used, self._used = self._used, set()
        for connection in used:
            connection.channel.close()


class Credential:
    """The token of a client, which its calls share."""

    def __init__(self, source: Token | None) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._asked = False
        self._token: str | None = None

    def token(self) -> str | None:
        """Return the current token."""
        with self._lock:
            if not self._asked:
                self._token = calls.checked_token(self._ask())
                self._asked = True
            return self._token

    def renew(self, rejected: str | None) -> bool:
        """Get another token than the one that was rejected; return False if there is none."""
        with self._lock:
            # Another call may have renewed it meanwhile.
            if self._token != rejected:
                return True
            fresh = calls.checked_token(self._ask()) if callable(self._source) else None
            if fresh is None:
                return False
            self._token = fresh
            return True

    def _ask(self) -> str | None:
        return self._source() if callable(self._source) else self._source
