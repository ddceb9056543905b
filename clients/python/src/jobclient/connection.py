"""A channel to the gateway and the credential that goes over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from jobgateway.v1 import job_service_pb2_grpc as rpc

from jobclient.failure import Failure
from jobclient.resume import needs_new_connection


def channel_options(service_config: str) -> list[tuple[str, int | str]]:
    """The options of a channel, with a service config as JSON."""
    return [
        ("grpc.service_config", service_config),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Without it a ping may go unanswered for a minute, whatever the timeout above says.
        ("grpc.http2.ping_timeout_ms", 10_000),
        # A watch sends nothing for hours, and pings would end after two without data.
        ("grpc.http2.max_pings_without_data", 0),
        # Channels of one process share connections, so that a new one would come back to a gateway that drains.
        ("grpc.use_local_subchannel_pool", 1),
    ]


class _Base:
    stub: Any

    def __init__(self, target: str, service_config: str, token: str, fresh_token: Callable[[], str]) -> None:
        self._target = target
        self._options = channel_options(service_config)
        self._token = token
        self._fresh_token = fresh_token
        self._connect()

    def _connect(self) -> None:
        raise NotImplementedError

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of each call."""
        return (("authorization", f"Bearer {self._token}"),)

    def log_in(self) -> None:
        """Takes a fresh token."""
        self._token = self._fresh_token()

    def recover(self, failure: Failure, used: object) -> None:
        """Gets what the next call needs after a failure of a call over `used`: a fresh token, a new connection.

        Other watches may share the old channel, so it is not closed but left: gRPC closes it after its last call.
        """
        if failure.code is grpc.StatusCode.UNAUTHENTICATED:
            self.log_in()
        if needs_new_connection(failure) and self.stub is used:
            self._connect()


class Connection(_Base):
    """A connection to `target`; `fresh_token` gives a new token whenever one is needed."""

    def _connect(self) -> None:
        self._channel = grpc.insecure_channel(self._target, self._options)
        self.stub = rpc.JobServiceStub(self._channel)

    def close(self) -> None:
        """Ends the connection and what calls there are."""
        self._channel.close()


class AioConnection(_Base):
    """As `Connection`, for asyncio."""

    def _connect(self) -> None:
        self._channel = grpc.aio.insecure_channel(self._target, self._options)
        self.stub = rpc.JobServiceStub(self._channel)

    async def close(self) -> None:
        """Ends the connection and what calls there are."""
        await self._channel.close()
