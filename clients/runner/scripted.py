"""A scripted gateway: a server with some methods of the service, which is used like a `Stack`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import grpc
from jobgateway.v1 import job_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clients.runner.calls import Call
    from clients.runner.scenarios import Fault, Line

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["JobService"].full_name


class ScriptedGateway:
    """A gateway without faults that depend on the client. A subclass has the methods."""

    gateway_log = ""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.connections = 0
        self.missed: list[Fault] = []
        self.paths: list[str] = []
        self.posts: list[bytes] = []

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return the handlers by method."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        self._server.add_registered_method_handlers(_SERVICE, dict(self.handlers()))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    def observe(self, line: Line) -> None:
        """Ignore a line."""

    async def settled(self) -> None:
        """Return immediately: no fault is in progress."""
