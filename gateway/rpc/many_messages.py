"""Requests of any number of messages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import grpc
from grpc.aio import EOF

from gateway.rpc.one_message import check_half_closed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from grpc.aio import ServicerContext

    Context = ServicerContext[Any, Any]

M = TypeVar("M")


class Requests(Generic[M]):
    """The requests of one call, one after the other; `parse` reads each, and may raise `RequestInvalid`."""

    def __init__(self, context: Context, parse: Callable[[bytes], M]) -> None:
        self._context = context
        self._parse = parse

    async def next(self) -> M | None:
        """Return the next request, or None if the client has half-closed. Raises the error of `parse`.

        If the call was cancelled, the task of its handler is cancelled before this returns.
        """
        try:
            data = await self._context.read()
            if data is EOF:
                await check_half_closed(self._context)
        except asyncio.CancelledError:
            # grpc.aio keeps the error of a cancelled read, and with it the frames that it passes: only this one.
            raise asyncio.CancelledError from None
        return None if data is EOF else self._parse(data)


def method_handler(handle: Callable[[bytes, Context], Awaitable[Any]]) -> grpc.RpcMethodHandler[Any, Any]:
    """Return the grpc.aio handler that calls `handle`, which reads its requests and writes its responses itself."""

    async def receive(iterator: object, context: Context) -> Any:
        handling = handle(b"", context)
        # As in `one_message`, without the cycle of an aborted call.
        del iterator, context
        return await handling

    # Without serializers, because requests and responses stay encoded here.
    return grpc.stream_stream_rpc_method_handler(receive)
