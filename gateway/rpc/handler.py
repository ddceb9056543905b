"""Handlers for grpc.aio: admit a call, run its method, and turn what it raises into a status."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from grpc import StatusCode

from gateway.auth.credential import read_credential
from gateway.auth.peer import peer_of
from gateway.errors import GatewayError, LimitReached, RequestInvalid, SubmitOutcomeUnknown
from gateway.limits.admission import draining_error
from gateway.rpc.call import Call, CallRecord, cancelled_by_client
from gateway.rpc.metadata import by_name, read_passed_through
from gateway.rpc.one_message import NO_MESSAGE, check_half_closed
from gateway.rpc.status import to_rpc_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.message import Message
    from grpc.aio import ServicerContext

    from gateway.auth.credential import Credential
    from gateway.auth.gateway_token import GatewayToken
    from gateway.clock import Clock
    from gateway.limits.admission import Admission
    from gateway.rpc.call import CallObserver
    from gateway.rpc.tracing import Tracer

    Handler = Callable[[bytes, ServicerContext[Any, Any]], Awaitable[Any]]


# Methods that may have sent a job: to call their end UNAVAILABLE would invite a second one.
SUBMITTING = frozenset({"SendJob", "RunJob"})


class HandlerFactory:
    """Makes handlers for grpc.aio of methods that take a request and a `Call` and raise `GatewayError`.

    `gateway_token` is what callers get that bring none. `observers` has one for each method, by its name.
    """

    def __init__(
        self,
        admission: Admission,
        clock: Clock,
        observers: Mapping[str, CallObserver],
        tracer: Tracer,
        gateway_token: GatewayToken | None = None,
    ) -> None:
        self._admission = admission
        self._clock = clock
        self._observers = observers
        self._tracer = tracer
        self._gateway_token = gateway_token
        self._calls: set[Call] = set()

    def handler(
        self, name: str, method: Callable[[Any, Call], Awaitable[Any]], request: type[Message], *, watch: bool
    ) -> Handler:
        """A handler that admits the call, runs `method`, logs a line, and turns what it raises into a status.

        It takes the encoded `request`, for grpc.aio's own way to refuse one that cannot be parsed has no reason.
        """
        observer = self._observers[name]

        async def handle(data: bytes, context: ServicerContext[Any, Any]) -> Any:
            metadata = by_name(context)
            headers = read_passed_through(metadata)
            span = self._tracer.call(name, headers.get("traceparent"))
            peer = peer_of(context)
            record = CallRecord(name, observer, span, self._clock, peer)
            record.identify(headers)
            call = None
            try:
                if data is NO_MESSAGE:
                    await check_half_closed(context)
                with self._admission.admit(watch=watch) as ticket:
                    call = Call(context, self._credential(metadata, peer), headers, record)
                    ticket.charge(call.credential.caller_key, len(data))
                    self._calls.add(call)
                    answer = await method(_parse(request, data), call)
            except asyncio.CancelledError:
                if cancelled_by_client() and not (call and call.aborted_by_server):
                    record.end(StatusCode.CANCELLED, call)
                    raise
                if call and call.told_end:
                    # An error after the last event would contradict it.
                    record.end(StatusCode.OK, call)
                    return None
                error = _interruption(name, call)
            except GatewayError as raised:
                error = raised
            except Exception as raised:  # noqa: BLE001 - nothing but a status may leave a handler
                error = GatewayError("it is not foreseen")
                error.__cause__ = raised
            else:
                record.end(StatusCode.OK, call, answer)
                return answer
            finally:
                if call is not None:
                    self._calls.discard(call)
            rpc_error = to_rpc_error(error, call.uid if call else None)
            record.fail(rpc_error, error, call)
            await self._delay_rejection(error, call, len(data))
            # To end a stream that is not read may take long, and grpc keeps what `abort` raises, with this frame:
            # neither may hold what the call held. An error of a loop is held by it, and holds frames as well.
            aborting = context.abort(rpc_error.code, rpc_error.message, rpc_error.trailers)
            error.__traceback__ = None
            del error, data, call, context
            return await aborting

        return handle

    def _credential(self, metadata: dict[str, list[str | bytes]], peer: str) -> Credential:
        values = metadata.get("authorization", [])
        if not values and self._gateway_token is not None:
            return self._gateway_token.credential(peer)
        return read_credential(values)

    def end_calls(self) -> None:
        """Ends all calls that are inside: with DRAINING, or as an unknown outcome where one may have sent a job."""
        for call in self._calls:
            call.end()

    async def _delay_rejection(self, error: GatewayError, call: Call | None, request_bytes: int) -> None:
        if isinstance(error, LimitReached) and call is not None:
            await self._admission.delay_rejection(call.credential.caller_key, request_bytes)


def _parse(request: type[Message], data: bytes) -> Message:
    if data is NO_MESSAGE:
        raise RequestInvalid("request", "the call ended without a message; send exactly one")
    try:
        return request.FromString(data)
    except DecodeError as error:
        raise RequestInvalid("request", f"it is not a message of the type {request.DESCRIPTOR.name}") from error


def _interruption(name: str, call: Call | None) -> GatewayError:
    if call is None or not call.aborted_by_server:
        # Without a status, a client would hang until its own deadline (grpc/grpc#29248).
        return GatewayError("a part of the call was cancelled from within")
    # A stream that has told its caller the uid can be taken up elsewhere.
    if name in SUBMITTING and (call.uid is None or name == "SendJob"):
        return SubmitOutcomeUnknown("the gateway went away during the submission", None)
    return draining_error()
