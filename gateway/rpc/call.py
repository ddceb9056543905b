"""One call: its credential, how to answer it, and its line in the log."""

from __future__ import annotations

import asyncio
import random
import traceback
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from grpc import StatusCode, aio

from gateway.auth.peer import printable
from gateway.errors import InternalError
from gateway.rpc.metadata import by_name, read_machine_retry
from gateway.upstream import RequestContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from grpc.aio import ServicerContext

    from gateway.auth.credential import Credential
    from gateway.clock import Clock
    from gateway.errors import GatewayError
    from gateway.rpc.status import RpcError
    from gateway.rpc.tracing import CallSpan


MAX_DEADLINE_SECONDS = 30 * 24 * 3600.0

_log = structlog.get_logger()


class CallObserver(Protocol):
    """Is told of the calls of one method; must be quick, and must not raise."""

    def began(self) -> None:
        """A call has come in."""

    def sent(self, size: int) -> None:
        """A message of `size` bytes has gone to the caller."""

    def ended(self, code: StatusCode, seconds: float) -> None:
        """A call that was begun has ended after `seconds`."""


class CallRecord:
    """What the log, the metrics and the trace are told of one call, from its arrival to its end.

    `ids` name the call in each line of the log: the caller's `x-request-id`, or one that is made up where there is
    none, and the `trace_id`, where it is part of a trace. `peer` is whom the caller's certificate names, or "".
    """

    def __init__(
        self, method: str, observer: CallObserver, span: CallSpan, clock: Clock, peer: str, request_id: str | None
    ) -> None:
        self.span = span
        # No secret, so no call waits for the kernel's random numbers.
        self.ids = {"x-request-id": request_id or f"{random.getrandbits(64):016x}"}
        if span.trace_id:
            self.ids["trace_id"] = span.trace_id
        self.sent = observer.sent
        self._who = {"method": method, "peer": printable(peer)} if peer else {"method": method}
        self._observer = observer
        self._clock = clock
        self._began = clock.monotonic()
        observer.began()

    def end(self, code: StatusCode, call: Call | None, answer: bytes | None = None) -> None:
        """The call has ended, with an `answer` where it does not stream."""
        if answer is not None:
            self.sent(len(answer))
        self._end(_log.info, code, call)

    def fail(self, rpc_error: RpcError, error: GatewayError, call: Call | None) -> None:
        """The call ends with an error."""
        more: dict[str, object] = {"reason": rpc_error.reason}
        http_status = getattr(error, "http_status", None)
        if http_status is not None:
            more["http_status"] = http_status
        if not error.quotes_others:
            more["message"] = rpc_error.message
        write = _log.info
        if isinstance(error, InternalError):
            more["exception"] = _trace(error, call)
            write = _log.error
        self._end(write, rpc_error.code, call, rpc_error.reason, more)

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
    `aborted_by_server`: this process ends the call, and not its caller. `told_end`: the last event of the stream is on
    its way.
    """

    def __init__(
        self,
        context: ServicerContext[Any, Any],
        credential: Credential,
        headers: Mapping[str, str],
        record: CallRecord,
    ) -> None:
        self.credential = credential
        self.span = record.span
        self.ids = record.ids
        self.request_context = RequestContext(credential, self.span.onward(headers))
        self._sent = record.sent
        self.uid: int | None = None
        self.aborted_by_server = False
        self.told_end = False
        self._beginning = False
        self._context = context
        self._task = asyncio.current_task()

    def machine_retry(self) -> str | None:
        """Return the header, with its value, by which a client library or a proxy says that it repeats this call."""
        return read_machine_retry(by_name(self._context))

    def remaining(self) -> float | None:
        """Seconds until the caller's deadline, at most 30 days, or None where there is none."""
        remaining = self._context.time_remaining()
        return None if remaining is None else min(max(0.0, remaining), MAX_DEADLINE_SECONDS)

    async def begin_stream(self) -> None:
        """Send the initial metadata: a stream is open before its first event, a submission cannot be sent again.

        Libraries and proxies repeat a call automatically only until response headers have come.
        """
        self._beginning = True
        try:
            await self._context.send_initial_metadata(())
        except aio.InternalError:
            await _cancel_this_task()
        finally:
            self._beginning = False
        if self.aborted_by_server:
            await _cancel_this_task()

    async def write(self, event: bytes, *, last: bool = False) -> None:
        """Send an encoded event, the `last` one or not; return when flow control has room for it."""
        # From here on grpc has the event: it goes out, even if this call is interrupted before `write` returns.
        self.told_end = last
        try:
            await self._context.write(event)
        except aio.InternalError:
            # The connection is gone, and grpc.aio has not cancelled the handler for it yet: one way to leave is enough.
            await _cancel_this_task()
        self._sent(len(event))

    def on_sent(self, release: Callable[[], None]) -> None:
        """Calls `release` when grpc has sent the answer, or there is nobody to send it to any more."""
        # The stubs take a class of their own for what is any function.
        self._context.add_done_callback(lambda _: release())  # type: ignore[arg-type]

    def end(self) -> None:
        """Interrupts the call, for this process goes away."""
        self.aborted_by_server = True
        # Interrupted there, grpc.aio would send the initial metadata again with the status, which grpc refuses.
        if self._task is not None and not self._beginning:
            self._task.cancel()


async def _cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None, "handlers run in tasks"  # noqa: S101 - a defect of ours
    task.cancel()
    await asyncio.sleep(0)


def _trace(error: GatewayError, call: Call | None) -> str:
    # What a library puts into its exceptions is not ours to know: it may be a header, with the token.
    text = "".join(traceback.format_exception(error.__cause__ or error))
    return call.credential.redact(text) if call else text


def cancelled_by_client() -> bool:
    """Within a handler's `except CancelledError`: whether grpc.aio cancelled the call, for its caller left it."""
    task = asyncio.current_task()
    # The context does not tell (grpc 36193); a task that was itself cancelled does.
    return task is not None and task.cancelling() > 0
