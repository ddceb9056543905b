"""The boundary between grpc.aio and the service: reads the metadata of a call, and ends it by the table."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import structlog
from grpc import StatusCode

from gateway.credential import read_credential
from gateway.errors import GatewayError, RequestInvalid
from gateway.status import ending_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from grpc.aio import ServicerContext

    from gateway.admission import Admission
    from gateway.clock import Clock
    from gateway.credential import Credential

    Handler = Callable[[Any, ServicerContext[Any, Any]], Awaitable[Any]]

PASSED_THROUGH = ("traceparent", "x-request-id")
MAX_DEADLINE_SECONDS = 30 * 24 * 3600.0

# A raw HTTP/2 peer can send CR, LF, NUL and more, and grpc.aio hands it on.
_SAFE_VALUE = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")

_log = structlog.get_logger()


class Call:
    """One call: whose it is, what passes through, and how to answer. `uid` is the job, once it is known."""

    def __init__(self, context: ServicerContext[Any, Any]) -> None:
        metadata: dict[str, list[str | bytes]] = {}
        for name, value in context.invocation_metadata() or ():
            metadata.setdefault(name, []).append(value)
        self.credential: Credential = read_credential(metadata.get("authorization", []))
        self.headers = {name: _one(name, metadata[name]) for name in PASSED_THROUGH if name in metadata}
        self.uid: int | None = None
        self._context = context

    def remaining(self) -> float | None:
        """Seconds until the caller's deadline, at most 30 days, or None where there is none."""
        remaining = self._context.time_remaining()
        return None if remaining is None else min(max(0.0, remaining), MAX_DEADLINE_SECONDS)

    async def begin_stream(self) -> None:
        """Sends the initial metadata, so that the caller sees the stream open before its first event."""
        await self._context.send_initial_metadata(())

    async def write(self, event: bytes) -> None:
        """Sends an encoded event; returns when flow control has room for it."""
        await self._context.write(event)


def _one(name: str, values: list[str | bytes]) -> str:
    value = values[0]
    if len(values) > 1 or not isinstance(value, str) or not _SAFE_VALUE.fullmatch(value):
        raise RequestInvalid(name, "the metadata has exactly one value of 1 to 256 characters of visible ASCII")
    return value


class Boundary:
    """Makes handlers for grpc.aio of methods that take a request and a `Call` and raise `GatewayError`."""

    def __init__(self, admission: Admission, clock: Clock) -> None:
        self._admission = admission
        self._clock = clock

    def handler(self, name: str, method: Callable[[Any, Call], Awaitable[Any]], *, watch: bool) -> Handler:
        """A handler that admits the call, runs `method`, logs a line, and turns what it raises into a status."""

        async def handle(request: Any, context: ServicerContext[Any, Any]) -> Any:
            began = self._clock.monotonic()
            log = _log.bind(method=name)
            call = None
            try:
                with self._admission.enter(watch=watch):
                    call = Call(context)
                    answer = await method(request, call)
            except asyncio.CancelledError:
                if left_by_caller():
                    self._log_end(log, call, began, "CANCELLED")
                    raise
                # Left alone, a client would hang until its own deadline (grpc 29248).
                error = GatewayError("a part of the call was cancelled from within")
            except GatewayError as raised:
                error = raised
            except Exception as raised:  # noqa: BLE001 - nothing but a status may leave a handler
                error = GatewayError(type(raised).__name__)
                error.__cause__ = raised
            else:
                self._log_end(log, call, began, "OK")
                return answer
            ending = ending_of(error, call.uid if call else None)
            if ending.code is StatusCode.INTERNAL and error.__cause__ is not None:
                log = log.bind(exc_info=error.__cause__)
            self._log_end(log, call, began, ending.code.name, reason=ending.reason, message=ending.message)
            return await context.abort(ending.code, ending.message, ending.trailers)

        return handle

    def _log_end(self, log: Any, call: Call | None, began: float, code: str, **more: str) -> None:
        seconds = round(self._clock.monotonic() - began, 6)
        if call is not None:
            more |= call.headers
        log.info("call", code=code, seconds=seconds, uid=call.uid if call else None, **more)


def left_by_caller() -> bool:
    """Within a handler's `except CancelledError`: whether grpc.aio cancelled the call, for its caller left it."""
    task = asyncio.current_task()
    # The context does not tell (grpc 36193); a task that was itself cancelled does.
    return task is not None and task.cancelling() > 0
