"""The boundary between grpc.aio and the service: reads what a call brings, and ends it by the table."""

from __future__ import annotations

import asyncio
import re
import traceback
from typing import TYPE_CHECKING, Any

import structlog
from google.protobuf.message import DecodeError
from grpc.aio import InternalError

from gateway.admission import draining
from gateway.credential import read_credential
from gateway.errors import GatewayError, LimitReached, RequestInvalid, SubmitOutcomeUnknown
from gateway.status import ending_of
from gateway.tls import peer_of, printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from google.protobuf.message import Message
    from grpc.aio import ServicerContext

    from gateway.admission import Admission
    from gateway.clock import Clock
    from gateway.credential import Credential
    from gateway.own_token import OwnToken

    Handler = Callable[[bytes, ServicerContext[Any, Any]], Awaitable[Any]]

PASSED_THROUGH = ("traceparent", "x-request-id")
MAX_DEADLINE_SECONDS = 30 * 24 * 3600.0
# Methods that may have sent a job: to call their end UNAVAILABLE would invite a second one.
SUBMITTING = frozenset({"SendJob", "RunJob"})

# A raw HTTP/2 peer can send CR, LF, NUL and more, and grpc.aio hands it on.
_SAFE_VALUE = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")

_log = structlog.get_logger()


class Call:
    """One call: whose it is, what passes through, and how to answer. `uid` is the job, once it is known.

    `cut_off`: this process ends the call, and not its caller.
    """

    def __init__(self, context: ServicerContext[Any, Any], credential: Credential, headers: dict[str, str]) -> None:
        self.credential = credential
        self.headers = headers
        self.uid: int | None = None
        self.cut_off = False
        self._beginning = False
        self._context = context
        self._task = asyncio.current_task()

    def remaining(self) -> float | None:
        """Seconds until the caller's deadline, at most 30 days, or None where there is none."""
        remaining = self._context.time_remaining()
        return None if remaining is None else min(max(0.0, remaining), MAX_DEADLINE_SECONDS)

    async def begin_stream(self) -> None:
        """Sends the initial metadata, so that the caller sees the stream open before its first event."""
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

    `own_token` is what callers get that bring none.
    """

    def __init__(self, admission: Admission, clock: Clock, own_token: OwnToken | None = None) -> None:
        self._admission = admission
        self._clock = clock
        self._own_token = own_token
        self._calls: set[Call] = set()

    def handler(
        self, name: str, method: Callable[[Any, Call], Awaitable[Any]], request: type[Message], *, watch: bool
    ) -> Handler:
        """A handler that admits the call, runs `method`, logs a line, and turns what it raises into a status.

        It takes the encoded `request`, for grpc.aio's own way to refuse one that cannot be parsed has no reason.
        """

        async def handle(data: bytes, context: ServicerContext[Any, Any]) -> Any:
            began = self._clock.monotonic()
            peer = peer_of(context)
            log = _log.bind(method=name, **({"peer": printable(peer)} if peer else {}))
            call = None
            try:
                with self._admission.enter(watch=watch) as visit:
                    metadata = _by_name(context)
                    headers = _passed_through(metadata)
                    log = log.bind(**headers)
                    call = Call(context, self._credential(metadata, peer), headers)
                    visit.belongs_to(call.credential.caller_key, len(data))
                    self._calls.add(call)
                    answer = await method(_parse(request, data), call)
            except asyncio.CancelledError:
                if call is not None and call.cut_off:
                    error = _cut_off(name, call)
                elif left_by_caller():
                    self._log_end(log.info, call, began, "CANCELLED")
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
                self._log_end(log.info, call, began, "OK")
                return answer
            finally:
                if call is not None:
                    self._calls.discard(call)
            ending = ending_of(error, call.uid if call else None)
            write = log.info
            if type(error) is GatewayError:
                write = log.bind(exception=_trace(error, call)).error
            self._log_end(write, call, began, ending.code.name, reason=ending.reason, message=ending.message)
            await self._hold_back(error, call, len(data))
            # To end a stream that is not read may take long, and the error's frames hold what it was to carry.
            del error
            return await context.abort(ending.code, ending.message, ending.trailers)

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

    def _log_end(self, write: Callable[..., Any], call: Call | None, began: float, code: str, **more: str) -> None:
        seconds = round(self._clock.monotonic() - began, 6)
        write("call", code=code, seconds=seconds, uid=call.uid if call else None, **more)


def _by_name(context: ServicerContext[Any, Any]) -> dict[str, list[str | bytes]]:
    metadata: dict[str, list[str | bytes]] = {}
    for name, value in context.invocation_metadata() or ():
        metadata.setdefault(name, []).append(value)
    return metadata


def _passed_through(metadata: dict[str, list[str | bytes]]) -> dict[str, str]:
    return {name: _one(name, metadata[name]) for name in PASSED_THROUGH if name in metadata}


def _one(name: str, values: Sequence[str | bytes]) -> str:
    value = values[0]
    if len(values) > 1 or not isinstance(value, str) or not _SAFE_VALUE.fullmatch(value):
        raise RequestInvalid(name, "the metadata has exactly one value of 1 to 256 characters of visible ASCII")
    return value


def _parse(request: type[Message], data: bytes) -> Message:
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
