"""Requests of exactly one message, received so that one that never comes is noticed.

grpc.aio ends a unary call in silence if its stream ends without a message, and the client waits for ever. A handler of
streams is told, and costs the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import EOF

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from grpc.aio import ServicerContext

    Context = ServicerContext[Any, Any]


class _NoMessage(bytes):
    """In place of an encoded request."""


NO_MESSAGE = _NoMessage()
"""What a handler gets if its stream ended without a message; to be told by `is`."""


def method_handler(
    handle: Callable[[bytes, Context], Awaitable[Any]], *, streams: bool
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return what grpc.aio calls `handle` through, once the one request is there; `streams`: it writes its answers."""

    async def receive(_: object, context: Context) -> Any:
        data = await context.read()
        return await handle(NO_MESSAGE if data is EOF else data, context)

    make = grpc.stream_stream_rpc_method_handler if streams else grpc.stream_unary_rpc_method_handler
    # Without serializers: the boundary takes encoded messages, and the service answers with them.
    return make(receive)
