"""Handlers for grpc.aio: admit a call, run its method, and turn what it raises into a status."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError
from grpc import StatusCode

from gateway.auth.credential import PROCESS_KEY, read_credential
from gateway.auth.peer import address_of, peer_of, printable
from gateway.errors import GatewayError, InternalError, LimitReached, RequestInvalid, SubmitOutcomeUnknown
from gateway.limits.admission import draining_error
from gateway.rpc.call import Call, CallRecord
from gateway.rpc.interruption import Interruption, interruption
from gateway.rpc.many_messages import Requests
from gateway.rpc.metadata import metadata_dict, read_passed_through, read_user_agent
from gateway.rpc.one_message import NO_MESSAGE, check_half_closed
from gateway.rpc.status import RpcError, to_rpc_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.message import Message
    from grpc.aio import ServicerContext

    from gateway.auth.credential import Credential
    from gateway.auth.gateway_token import GatewayToken
    from gateway.clock import Clock
    from gateway.limits.admission import Admission
    from gateway.rpc.call import CallObserver, SlowReader
    from gateway.rpc.tracing import Tracer

    Handler = Callable[[bytes, ServicerContext[Any, Any]], Awaitable[Any]]


# The methods that may have sent a job: a client or proxy would repeat a call that ends with UNAVAILABLE.
SUBMITTING = frozenset({"SendJob", "RunJob"})
INTERNAL_CANCELLATION = "a part of the call was cancelled from within"


class _Method(NamedTuple):
    """One method of the service, as `_Invocation` runs it."""

    name: str
    run: Callable[[Any, Call], Awaitable[bytes | None]]
    request_type: type[Message]
    watch: bool
    requests: bool
    observer: CallObserver


class HandlerFactory:
    """Makes the handlers that grpc.aio calls from methods that take a request and a `Call`.

    Args:
        admission: Admits or rejects each call before anything else.
        clock: Measures the calls.
        observers: Has one observer per method, by the name of the method.
        tracer: Starts the span of each call.
        gateway_token: The credential of callers that send none; None requires one of every caller.
        credential_key: The key of the hashes of all other credentials.
    """

    def __init__(
        self,
        admission: Admission,
        clock: Clock,
        observers: Mapping[str, CallObserver],
        tracer: Tracer,
        gateway_token: GatewayToken | None,
        credential_key: bytes = PROCESS_KEY,
    ) -> None:
        self.admission = admission
        self.clock = clock
        self.tracer = tracer
        self.calls: set[Call] = set()
        self._observers = observers
        self._gateway_token = gateway_token
        self._credential_key = credential_key

    def handler(
        self,
        name: str,
        method: Callable[[Any, Call], Awaitable[bytes | None]],
        request: type[Message],
        *,
        watch: bool,
        requests: bool = False,
    ) -> Handler:
        """Return a handler that admits a call, runs `method`, logs a line, and turns errors into a status.

        The handler parses the `request` itself, because a request that grpc.aio cannot parse ends without a reason. If
        the call has any number of `requests`, `method` gets `Requests`.
        """
        described = _Method(name, method, request, watch, requests, self._observers[name])

        async def handle(data: bytes, context: ServicerContext[Any, Any]) -> Any:
            outcome = await _Invocation(self, described, context).run(data)
            if not isinstance(outcome, RpcError):
                return outcome
            # Aborting an unread stream may take long, and grpc keeps this frame, so drop the call's data first.
            aborting = context.abort(outcome.code, outcome.message, outcome.trailers)
            del data, context
            return await aborting

        return handle

    def credential(self, metadata: dict[str, list[str | bytes]], peer: str) -> Credential:
        """Return the credential of a call. Raises `CredentialInvalid`."""
        values = metadata.get("authorization", [])
        if not values and self._gateway_token is not None:
            return self._gateway_token.credential(peer)
        return read_credential(values, self._credential_key)

    def slow_readers(self) -> list[SlowReader]:
        """Return the streams whose clients have not accepted an event yet, in no order."""
        return [reader for call in self.calls if (reader := call.slow_reader()) is not None]

    def callers_by_poll_key(self) -> dict[bytes, set[bytes]]:
        """Return the `caller_key`s of the calls in flight, by the `poll_key`s of their credentials."""
        callers: dict[bytes, set[bytes]] = {}
        for call in self.calls:
            callers.setdefault(call.credential.poll_key, set()).add(call.credential.caller_key)
        return callers

    def end_calls(self) -> None:
        """End all calls in flight: with DRAINING, or with an unknown outcome if they may have sent a job."""
        for call in self.calls:
            call.end()


class _Invocation:
    """One call, from its arrival to its outcome."""

    __slots__ = ("_call", "_context", "_factory", "_headers", "_metadata", "_method", "_peer", "_record")

    def __init__(self, factory: HandlerFactory, method: _Method, context: ServicerContext[Any, Any]) -> None:
        self._factory = factory
        self._method = method
        self._context = context
        self._metadata = metadata_dict(context)
        self._headers = read_passed_through(self._metadata)
        self._peer = peer_of(context)
        span = factory.tracer.call(method.name, self._headers.get("traceparent"))
        client = {"address": address_of(context)}
        if self._peer:
            client["peer"] = printable(self._peer)
        self._record = CallRecord(
            method.name,
            method.observer,
            span,
            factory.clock,
            client,
            read_user_agent(self._metadata),
            self._headers.get("x-request-id"),
        )
        self._call: Call | None = None

    async def run(self, data: bytes) -> bytes | RpcError | None:
        """Return the response of a call, None for a stream that ended well, or the error that it ends with."""
        try:
            response = await self._serve(data)
        except asyncio.CancelledError:
            reason = interruption(self._call)
            if reason is Interruption.CLIENT_CANCELLED:
                self._record.end(StatusCode.CANCELLED, self._call)
                raise
            if reason is Interruption.AFTER_END:
                self._record.end(StatusCode.OK, self._call)
                return None
            error = self._abort_error() if reason is Interruption.SERVER_ABORT else InternalError(INTERNAL_CANCELLATION)
        except GatewayError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - only a status may leave a handler
            error = InternalError("an exception that the gateway does not expect")
            error.__cause__ = raised
        else:
            self._record.end(StatusCode.OK, self._call, response)
            return response
        finally:
            if self._call is not None:
                self._factory.calls.discard(self._call)
        rpc_error = await self._fail(error, len(data))
        # The error of a poll loop outlives this call, and its traceback holds frames. A cause holds this frame.
        error.__traceback__ = None
        del error
        return rpc_error

    async def _serve(self, data: bytes) -> bytes | None:
        method = self._method
        if data is NO_MESSAGE:
            await check_half_closed(self._context)
        with self._factory.admission.admit(watch=method.watch) as ticket:
            credential = self._factory.credential(self._metadata, self._peer)
            call = self._call = Call(self._context, credential, self._headers, self._record, ticket)
            ticket.charge(credential.caller_key, len(data))
            self._factory.calls.add(call)
            parse = partial(_parse, method.request_type)
            return await method.run(Requests(self._context, parse) if method.requests else parse(data), call)

    async def _fail(self, error: GatewayError, request_bytes: int) -> RpcError:
        call = self._call
        rpc_error = to_rpc_error(error, call.uid if call else None)
        self._record.fail(rpc_error, error, call)
        if isinstance(error, LimitReached) and call is not None:
            await self._factory.admission.delay_rejection(call.credential.caller_key, request_bytes)
        return rpc_error

    def _abort_error(self) -> GatewayError:
        # A stream that has sent the uid to its client can be resumed on another replica.
        resumable = self._method.name != "SendJob" and self._call is not None and self._call.uid is not None
        if self._method.name in SUBMITTING and not resumable:
            return SubmitOutcomeUnknown("the gateway was stopped during the submission", None)
        return draining_error()


def _parse(request_type: type[Message], data: bytes) -> Message:
    if data is NO_MESSAGE:
        raise RequestInvalid("request", "no message came before the stream ended; send exactly one")
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise RequestInvalid("request", f"cannot be parsed as a {request_type.DESCRIPTOR.name}") from error
