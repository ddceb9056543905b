"""The standard health service: `grpc.health.v1.Health`, with a limit on the number of watches.

The library's servicer holds a lock while it writes to a watcher. A single watcher that does not read would keep it from
ever changing to NOT_SERVING, and the process from draining.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode
from grpc_health.v1 import health_pb2

from gateway.rpc.one_message import NO_MESSAGE, check_half_closed, method_handler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from google.protobuf.message import Message
    from grpc.aio import ServicerContext

    Context = ServicerContext[Any, Any]

# The service requires no credential, so without a limit anyone could fill the memory with streams. A balancer has one
# stream for each of its connections.
MAX_WATCHES = 2_000

SERVICE_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
Response = health_pb2.HealthCheckResponse
# The type stubs do not have HealthList yet.
_pb: Any = health_pb2


class Health:
    """The health of the process: all services have the same status."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}
        self._status: int = Response.SERVING
        self._changed = asyncio.Event()
        self._watching = 0

    def drain(self) -> None:
        """Report NOT_SERVING from now on."""
        self._status = Response.NOT_SERVING
        self._changed.set()

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the handler of the service."""
        request = health_pb2.HealthCheckRequest
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Check": method_handler(_parsed(request, self._check), streams=False),
                "List": method_handler(_parsed(_pb.HealthListRequest, self._list), streams=False),
                "Watch": method_handler(_parsed(request, self._watch), streams=True),
            },
        )

    def _status_of(self, service: str) -> health_pb2.HealthCheckResponse:
        known: Any = self._status
        return Response(status=known if service in self._services else Response.SERVICE_UNKNOWN)

    async def _check(self, request: health_pb2.HealthCheckRequest, context: Context) -> bytes:
        if request.service not in self._services:
            await context.abort(
                StatusCode.NOT_FOUND, f"service: {request.service[:100]!r} is not served; list all with List"
            )
        return self._status_of(request.service).SerializeToString()

    async def _list(self, _: Message, __: Context) -> bytes:
        statuses = {name: self._status_of(name) for name in self._services}
        encoded: bytes = _pb.HealthListResponse(statuses=statuses).SerializeToString()
        return encoded

    async def _watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        if self._watching >= MAX_WATCHES:
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, "health: there are too many watches already; use Check")
        self._watching += 1
        try:
            before = None
            # The status changes once, and the stream stays open after that.
            while True:
                now = self._status_of(request.service)
                if now != before:
                    await context.write(now.SerializeToString())
                    before = now
                elif self._changed.is_set():
                    await asyncio.Event().wait()
                else:
                    await self._changed.wait()
        finally:
            self._watching -= 1


def _parsed(
    request: type[Message], handle: Callable[[Any, Context], Awaitable[Any]]
) -> Callable[[bytes, Context], Awaitable[Any]]:
    async def parse(data: bytes, context: Context) -> Any:
        if data is NO_MESSAGE:
            await check_half_closed(context)
        try:
            message = None if data is NO_MESSAGE else request.FromString(data)
        except DecodeError:
            message = None
        if message is None:
            name = request.DESCRIPTOR.name
            await context.abort(StatusCode.INVALID_ARGUMENT, f"request: must be one message of the type {name}")
        return await handle(message, context)

    return parse
