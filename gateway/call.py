"""The boundary between grpc.aio and the service: reads what a call brings, and ends it by the table."""

from __future__ import annotations

import asyncio
import random
import re
import traceback
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from google.protobuf.message import DecodeError
from grpc import StatusCode
from grpc.aio import InternalError

from gateway.admission import draining
from gateway.credential import read_credential
from gateway.errors import GatewayError, LimitReached, RequestInvalid, SubmitOutcomeUnknown
from gateway.one_message import NO_MESSAGE
from gateway.status import ending_of
from gateway.tls import peer_of, printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.message import Message
    from grpc.aio import ServicerContext

    from gateway.admission import Admission
    from gateway.clock import Clock
    from gateway.credential import Credential
    from gateway.own_token import OwnToken
    from gateway.status import Ending
    from gateway.tracing import CallSpan, Tracer

    Handler = Callable[[bytes, ServicerContext[Any, Any]], Awaitable[Any]]

PASSED_THROUGH = ("traceparent", "x-request-id")
MAX_DEADLINE_SECONDS = 30 * 24 * 3600.0
# Methods that may have sent a job: to call their end UNAVAILABLE would invite a second one.
SUBMITTING = frozenset({"SendJob", "RunJob"})

# What these say of a call that nobody made before: gRPC's own retries, and those of Envoy and so of Istio.
FIRST_ATTEMPTS = {"grpc-previous-rpc-attempts": 0, "x-envoy-attempt-count": 1}
_COUNT = re.compile(r"[0-9]{1,9}")

# A raw HTTP/2 peer can send CR, LF, NUL and more, and grpc.aio hands it on.
_SAFE_VALUE = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")

_log = structlog.get_logger()


class Observer(Protocol):
    """Is told of the calls of one method; must be quick, and must not raise."""

    def began(self) -> None:
        """A call has come in."""

    def sent(self, size: int) -> None:
        """A message of `size` bytes has gone to the caller."""

    def ended(self, code: StatusCode, seconds: float) -> None:
        """A call that was begun has ended after `seconds`."""


class Record:
    """What the log, the metrics and the trace are told of one call, from its arrival to its end.

    `ids` name the call in each line of the log: the caller's `x-request-id`, or one that is made up where there is
    none, and the `trace_id`, where it is part of a trace. `peer` is whom the caller's certificate names, or "".
    """

    def __init__(self, method: str, observer: Observer, span: CallSpan, clock: Clock, peer: str) -> None:
        self.span = span
        # No secret, so that no call waits for the kernel's random numbers.
        self.ids = {"x-request-id": f"{random.getrandbits(64):016x}"}
        if span.trace_id:
            self.ids["trace_id"] = span.trace_id
        self.sent = observer.sent
        self._who = {"method": method, "peer": printable(peer)} if peer else {"method": method}
        self._observer = observer
        self._clock = clock
        self._began = clock.monotonic()
        observer.began()

    def identify(self, headers: Mapping[str, str]) -> None:
        """The headers that pass through have been read."""
        if "x-request-id" in headers:
            self.ids["x-request-id"] = headers["x-request-id"]

    def end(self, code: StatusCode, call: Call | None, answer: bytes | None = None) -> None:
        """The call has ended, with an `answer` where it does not stream."""
        if answer is not None:
            self.sent(len(answer))
        self._end(_log.info, code, call)

    def fail(self, ending: Ending, error: GatewayError, call: Call | None) -> None:
        """The call ends with an error."""
        more: dict[str, object] = {"reason": ending.reason}
        http_status = getattr(error, "http_status", None)
        if http_status is not None:
            more["http_status"] = http_status
        if not error.quotes_others:
            more["message"] = ending.message
        write = _log.info
        if type(error) is GatewayError:
            more["exception"] = _trace(error, call)
            write = _log.error
        self._end(write, ending.code, call, ending.reason, more)

    def _end(
        self,
        write: Callable[..., Any],
        code: StatusCode,
        call: Call | None,
        reason: str = "",
        more: Mapping[str, object] | None = None,
    ) -> None:
        seconds = round(self._clock.monotonic() - self._began, 6)
        uid = call.uid if call else None
        self._observer.ended(code, seconds)
        self.span.end(code, uid, reason)
        # In one go: to bind what is known before makes a logger each time, which costs as much as the line itself.
        write("call", **self._who, **(more or {}), code=code.name, seconds=seconds, uid=uid, **self.ids)


class Call:
    """One call: whose it is, what passes through, and how to answer. `uid` is the job, once it is known.

    `headers` pass through to the upstream, `span` is for what is done on its behalf, `ids` name it in the log.
    `cut_off`: this process ends the call, and not its caller.
    """

    def __init__(
        self,
        context: ServicerContext[Any, Any],
        credential: Credential,
        headers: Mapping[str, str],
        record: Record,
    ) -> None:
        self.credential = credential
        self.span = record.span
        self.ids = record.ids
        self.headers = self.span.onward(headers)
        self._sent = record.sent
        self.uid: int | None = None
        # The header by which a machine says that it made this call before, or None.
        self.machine_retry: str | None = None
        self.cut_off = False
        self._beginning = False
        self._context = context
        self._task = asyncio.current_task()

    def remaining(self) -> float | None:
        """Seconds until the caller's deadline, at most 30 days, or None where there is none."""
        remaining = self._context.time_remaining()
        return None if remaining is None else min(max(0.0, remaining), MAX_DEADLINE_SECONDS)

    async def begin_stream(self) -> None:
        """Send the initial metadata: a stream is open before its first event, a submission cannot be sent again.

        Libraries and proxies repeat a call by themselves only as long as no response headers have come.
        """
        self._beginning = True
        try:
            await self._context.send_initial_metadata(())
        except InternalError:
            await _cancel_this_task()
        finally:
            self._beginning = False
        if self.cut_off:
            await _cancel_this_task()

    async def write(self, event: bytes) -> None:
        """Sends an encoded event; returns when flow control has room for it."""
        try:
            await self._context.write(event)
        except InternalError:
            # The connection is gone, and grpc.aio has not cancelled the handler for it yet: one way to leave is enough.
            await _cancel_this_task()
        self._sent(len(event))

    def when_sent(self, release: Callable[[], None]) -> None:
        """Calls `release` when grpc has sent the answer, or there is nobody to send it to any more."""
        # The stubs take a class of their own for what is any function.
        self._context.add_done_callback(lambda _: release())  # type: ignore[arg-type]

    def end(self) -> None:
        """Interrupts the call, for this process goes away."""
        self.cut_off = True
        # Interrupted there, grpc.aio would send the initial metadata again with the status, which grpc refuses.
        if self._task is not None and not self._beginning:
            self._task.cancel()


async def _cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None, "handlers run in tasks"  # noqa: S101 - a defect of ours
    task.cancel()
    await asyncio.sleep(0)


class Boundary:
    """Makes handlers for grpc.aio of methods that take a request and a `Call` and raise `GatewayError`.

    `own_token` is what callers get that bring none. `observers` has one for each method, by its name.
    """

    def __init__(
        self,
        admission: Admission,
        clock: Clock,
        observers: Mapping[str, Observer],
        tracer: Tracer,
        own_token: OwnToken | None = None,
    ) -> None:
        self._admission = admission
        self._clock = clock
        self._observers = observers
        self._tracer = tracer
        self._own_token = own_token
        self._calls: set[Call] = set()

    def handler(
        self, name: str, method: Callable[[Any, Call], Awaitable[Any]], request: type[Message], *, watch: bool
    ) -> Handler:
        """A handler that admits the call, runs `method`, logs a line, and turns what it raises into a status.

        It takes the encoded `request`, for grpc.aio's own way to refuse one that cannot be parsed has no reason.
        """
        observer = self._observers[name]

        async def handle(data: bytes, context: ServicerContext[Any, Any]) -> Any:
            metadata = _by_name(context)
            headers = _passed_through(metadata)
            span = self._tracer.call(name, headers.get("traceparent"))
            peer = peer_of(context)
            record = Record(name, observer, span, self._clock, peer)
            record.identify(headers)
            call = None
            try:
                with self._admission.enter(watch=watch) as visit:
                    call = Call(context, self._credential(metadata, peer), headers, record)
                    visit.belongs_to(call.credential.caller_key, len(data))
                    call.machine_retry = _machine_retry(metadata)
                    self._calls.add(call)
                    answer = await method(_parse(request, data), call)
            except asyncio.CancelledError:
                if call is not None and call.cut_off:
                    error = _cut_off(name, call)
                elif left_by_caller():
                    record.end(StatusCode.CANCELLED, call)
                    raise
                else:
                    # Left alone, a client would hang until its own deadline (grpc 29248).
                    error = GatewayError("a part of the call was cancelled from within")
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
            ending = ending_of(error, call.uid if call else None)
            record.fail(ending, error, call)
            await self._hold_back(error, call, len(data))
            # To end a stream that is not read may take long, and grpc keeps what `abort` raises, with this frame:
            # neither may hold what the call held. An error of a loop is held by it, and holds frames as well.
            aborting = context.abort(ending.code, ending.message, ending.trailers)
            error.__traceback__ = None
            del error, data, call, context
            return await aborting

        return handle

    def _credential(self, metadata: dict[str, list[str | bytes]], peer: str) -> Credential:
        values = metadata.get("authorization", [])
        if not values and self._own_token is not None:
            return self._own_token.credential(peer)
        return read_credential(values)

    def end_calls(self) -> None:
        """Ends all calls that are inside: with DRAINING, or as an unknown outcome where one may have sent a job."""
        for call in self._calls:
            call.end()

    async def _hold_back(self, error: GatewayError, call: Call | None, request_bytes: int) -> None:
        if isinstance(error, LimitReached) and call is not None:
            await self._admission.hold_back(call.credential.caller_key, request_bytes)


def _by_name(context: ServicerContext[Any, Any]) -> dict[str, list[str | bytes]]:
    metadata: dict[str, list[str | bytes]] = {}
    for name, value in context.invocation_metadata() or ():
        metadata.setdefault(name, []).append(value)
    return metadata


def _passed_through(metadata: dict[str, list[str | bytes]]) -> dict[str, str]:
    """Return the first valid value of each header that passes through.

    Proxies add these headers, and some add a second one (HAProxy's unique-id-header). They are no credentials, so a
    value that cannot be used costs its place in the logs, and never the call.
    """
    found = {}
    for name in PASSED_THROUGH:
        for value in metadata.get(name, ()):
            if isinstance(value, str) and _SAFE_VALUE.fullmatch(value):
                found[name] = value
                break
    return found


def _machine_retry(metadata: dict[str, list[str | bytes]]) -> str | None:
    """Return the header, with its value, by which a client library or a proxy says that it made this call before."""
    for name, first in FIRST_ATTEMPTS.items():
        for value in metadata.get(name, ()):
            if isinstance(value, str) and _COUNT.fullmatch(value) and int(value) > first:
                return f"{name}: {value}"
    return None


def _parse(request: type[Message], data: bytes) -> Message:
    if data is NO_MESSAGE:
        raise RequestInvalid("request", "the call ended without a message; send exactly one")
    try:
        return request.FromString(data)
    except DecodeError as error:
        raise RequestInvalid("request", f"it is not a message of the type {request.DESCRIPTOR.name}") from error


def _cut_off(name: str, call: Call) -> GatewayError:
    # A stream that has told its caller the uid can be taken up elsewhere.
    if name in SUBMITTING and (call.uid is None or name == "SendJob"):
        return SubmitOutcomeUnknown("the gateway went away during the submission", None)
    return draining()


def _trace(error: GatewayError, call: Call | None) -> str:
    # What a library puts into its exceptions is not ours to know: it may be a header, with the token.
    text = "".join(traceback.format_exception(error.__cause__ or error))
    return call.credential.redact(text) if call else text


def left_by_caller() -> bool:
    """Within a handler's `except CancelledError`: whether grpc.aio cancelled the call, for its caller left it."""
    task = asyncio.current_task()
    # The context does not tell (grpc 36193); a task that was itself cancelled does.
    return task is not None and task.cancelling() > 0
