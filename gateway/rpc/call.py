"""One call: its credential, its response, and its line in the log."""

from __future__ import annotations

import asyncio
import random
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import structlog
from grpc import StatusCode, aio

from gateway.auth.peer import printable
from gateway.errors import InternalError
from gateway.rpc.metadata import metadata_dict, read_automatic_retry
from gateway.rpc.status import Fault
from gateway.upstream import RequestContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from grpc.aio import ServicerContext

    from gateway.auth.credential import Credential
    from gateway.clock import Clock
    from gateway.errors import GatewayError
    from gateway.limits.admission import AdmissionTicket
    from gateway.models import SendJob
    from gateway.rpc.status import RpcError
    from gateway.rpc.tracing import CallSpan


MAX_DEADLINE_SECONDS = 30 * 24 * 3600.0
REPLAYED = (("jobgateway-replayed", "true"),)

_log = structlog.get_logger()


class CallObserver(Protocol):
    """Observes the calls of one method; its methods must be quick and must not raise."""

    def began(self) -> None:
        """Count a call that has arrived."""

    def sent(self, size: int) -> None:
        """Count a message of `size` bytes that was sent to the client."""

    def ended(self, code: StatusCode, seconds: float) -> None:
        """Count a call that has ended, `seconds` after its arrival."""


class CallRecord:
    """Reports one call to the log, the metrics and the trace.

    Args:
        method: The name of the method.
        observer: Counts the call.
        span: The call's span.
        clock: Measures the call.
        client: Names the client in the log, before its credential is known.
        user_agent: The name that the client gives itself, or "".
        request_id: The client's `x-request-id`; None makes up a new one for the log.

    Attributes:
        ids: Identify the call in each line of the log: `x-request-id`, and `trace_id` if the call is part of a trace.
        now: Returns the time in seconds of the clock.
    """

    def __init__(
        self,
        method: str,
        observer: CallObserver,
        span: CallSpan,
        clock: Clock,
        client: Mapping[str, str],
        user_agent: str,
        request_id: str | None,
    ) -> None:
        self.span = span
        # Not a secret, so no call waits for random numbers of the kernel.
        self.ids = {"x-request-id": request_id or f"{random.getrandbits(64):016x}"}
        if span.trace_id:
            self.ids["trace_id"] = span.trace_id
        self.sent = observer.sent
        self.now = clock.monotonic
        self._method = method
        self._client = client
        self._user_agent = user_agent
        self._observer = observer
        self._clock = clock
        self._began = clock.monotonic()
        observer.began()

    def hide(self, credential: Credential) -> None:
        """Remove the call's token from what the client wrote into the log, because a client may repeat it there."""
        self.ids["x-request-id"] = credential.redact(self.ids["x-request-id"])
        self._user_agent = credential.redact(self._user_agent)

    def end(self, code: StatusCode, call: Call | None, response: bytes | None = None) -> None:
        """Report the end of a call, with the `response` of a unary one."""
        if response is not None:
            self.sent(len(response))
        self._end(_log.info, code, call)

    def fail(self, rpc_error: RpcError, error: GatewayError, call: Call | None) -> None:
        """Report a call that ends with an error."""
        more: dict[str, object] = {"reason": rpc_error.reason}
        http_status = getattr(error, "http_status", None)
        if http_status is not None:
            more["http_status"] = http_status
        if not error.quotes_others:
            more["message"] = rpc_error.message
        write = _log.info if rpc_error.fault is Fault.CLIENT else _log.warning
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
        line = {"method": self._method, "code": code.name, "seconds": seconds, "uid": uid}
        if call is not None:
            line["client"] = call.credential.fingerprint
            line |= call.facts
            if call.events:
                line["events"] = call.events
        if self._user_agent:
            line["user_agent"] = printable(self._user_agent)
        # Without `bind`, which makes a logger for each call and costs as much as the line itself.
        write("call", **line, **(more or {}), **self._client, **self.ids)


class SlowReader(NamedTuple):
    """A stream whose client has not accepted an event yet.

    Attributes:
        uid: The job; None for a stream of many jobs.
        client: The `caller_key` of the client.
        since: The time since which the event waits, in seconds of the clock.
        size: The bytes of this event.
        skipped: The states that the stream has skipped so far.
    """

    uid: int | None
    client: bytes
    since: float
    size: int
    skipped: int


class Call:
    """One call, as the methods of the service see it.

    Attributes:
        credential: The credential of the call.
        request_context: Goes with each upstream request of the call.
        span: The parent of the spans of these requests.
        ids: Identify the call in the log.
        ticket: Counts the watches of the call.
        uid: The job, None until it is known.
        facts: More fields of the call's line in the log.
        events: The number of events that were written.
        aborted_by_server: Whether this process ends the call, and not the client.
        end_sent: Whether the last event of the stream was given to grpc.
        skipped: The number of states that the stream has skipped.
    """

    def __init__(
        self,
        context: ServicerContext[Any, Any],
        credential: Credential,
        headers: Mapping[str, str],
        record: CallRecord,
        ticket: AdmissionTicket,
    ) -> None:
        record.hide(credential)
        self.credential = credential
        self.span = record.span
        self.ids = record.ids
        self.request_context = RequestContext(credential, self.span.inject(headers))
        self.ticket = ticket
        self._sent = record.sent
        self.uid: int | None = None
        self.facts: dict[str, Any] = {}
        self.events = 0
        self.aborted_by_server = False
        self.end_sent = False
        self.skipped = 0
        self._writing: tuple[float, int] | None = None
        self._now = record.now
        self._sending_metadata = False
        self._context = context
        self._task = asyncio.current_task()

    def submits(self, job: SendJob) -> None:
        """Add the job that the call submits to its line in the log. The texts are the client's."""
        self.facts["workspace"] = printable(self.credential.redact(job.workspace_id))
        self.facts["entity"] = job.entity_id
        if name := job.method_name or job.method:
            self.facts["job_method"] = printable(self.credential.redact(name))

    def automatic_retry(self) -> str | None:
        """Return the header, with its value, that marks this call as an automatic retry, or None."""
        return read_automatic_retry(metadata_dict(self._context))

    def remaining(self) -> float | None:
        """Return the seconds until the call's deadline, at most 30 days, or None if it has none."""
        remaining = self._context.time_remaining()
        return None if remaining is None else min(max(0.0, remaining), MAX_DEADLINE_SECONDS)

    async def send_headers(self) -> None:
        """Send the initial metadata.

        A client sees that its stream is open, and no library or proxy repeats the call any more: they do so only
        until response headers have arrived.
        """
        self._sending_metadata = True
        try:
            await self._context.send_initial_metadata(())
        except aio.InternalError:
            await _cancel_this_task()
        finally:
            self._sending_metadata = False
        if self.aborted_by_server:
            await _cancel_this_task()

    async def write(self, event: bytes, *, last: bool = False) -> None:
        """Send an encoded event, and return when flow control accepts it; `last`: no other event follows."""
        # From here on grpc has the event, and sends it even if this call is interrupted before `write` returns.
        self.end_sent = last
        self._writing = self._now(), len(event)
        try:
            await self._context.write(event)
        except aio.InternalError:
            # The connection is gone, and grpc.aio will cancel the handler: leave it in the same way.
            await _cancel_this_task()
        finally:
            self._writing = None
        self.events += 1
        self._sent(len(event))

    def slow_reader(self) -> SlowReader | None:
        """Return the event that waits for the client now, or None."""
        if self._writing is None:
            return None
        return SlowReader(self.uid, self.credential.caller_key, *self._writing, self.skipped)

    def log_defect(self, error: InternalError, uid: int) -> None:
        """Log the cause of a defect that ends the watch of job `uid`, and not the call."""
        _log.error("watch.failed", uid=uid, message=str(error), exception=_trace(error, self), **self.ids)

    def mark_replayed(self) -> None:
        """Say in the trailers that the response repeats an earlier submission."""
        # Not in the response headers: those of a submission are sent before its outcome is known.
        self._context.set_trailing_metadata(REPLAYED)

    def on_sent(self, release: Callable[[], None]) -> None:
        """Call `release` when grpc has sent the response, or cannot send it any more."""
        # The stubs ask for a class here, but grpc accepts any function.
        self._context.add_done_callback(lambda _: release())  # type: ignore[arg-type]

    def end(self) -> None:
        """Interrupt the call, because this process stops."""
        self.aborted_by_server = True
        # If it were interrupted now, grpc.aio would send the metadata again with the status, which grpc rejects.
        if self._task is not None and not self._sending_metadata:
            self._task.cancel()


async def _cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None, "handlers run in tasks"  # noqa: S101 - otherwise a defect
    task.cancel()
    await asyncio.sleep(0)


def _trace(error: GatewayError, call: Call | None) -> str:
    # A library may put anything into its exceptions, also the header with the token.
    text = "".join(traceback.format_exception(error.__cause__ or error))
    return call.credential.redact(text) if call else text
