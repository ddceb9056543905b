"""A scripted gateway: a server with some methods of the service, which is used like a `Stack`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Self

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from clients.runner.http2_proxy import Http2Proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clients.runner.calls import Call, Lifetime
    from clients.runner.scenarios import Fault, Line

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["JobService"].full_name


class ScriptedGateway:
    """A gateway without faults that depend on the client, behind a proxy. A subclass has the methods."""

    gateway_log = ""

    def __init__(self) -> None:
        self.missed: list[Fault] = []
        self.paths: list[str] = []
        self.posts: list[bytes] = []

    def handlers(self) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        """Return the handlers by method."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server()
        self._server.add_registered_method_handlers(_SERVICE, dict(self.handlers()))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self._proxy = Http2Proxy(("127.0.0.1", port))
        await self._proxy.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._proxy.__aexit__(*exception)
        await self._server.stop(None)

    @property
    def target(self) -> str:
        """The address for the client."""
        return self._proxy.address

    @property
    def calls(self) -> list[Call]:
        """The calls that the client made."""
        return self._proxy.calls

    @property
    def connections(self) -> list[Lifetime]:
        """The connections that the client made."""
        return self._proxy.lifetimes

    def observe(self, line: Line) -> None:
        """Ignore a line."""

    async def settled(self) -> None:
        """Return immediately: no fault is in progress."""
