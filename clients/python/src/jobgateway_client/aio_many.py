"""The asyncio watch of many jobs on one stream."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, Self

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client import calls
from jobgateway_client.aio_connections import gateway_errors
from jobgateway_client.errors import GatewayError, from_status, silent_stream, stream_without_end
from jobgateway_client.many_rules import LoginNeeded, ManyRules, WatchFailed
from jobgateway_client.rules import Retry

if TYPE_CHECKING:
    from jobgateway_client.aio_connections import Connection, Connections, Credential
    from jobgateway_client.deadline import Deadline


class AsyncWatchAll:
    """The events of many jobs until each has ended, on one stream that is resumed as often as necessary.

    Iterate over it once. Its items are those of `WatchAll`. Use it as an async context manager, or call `close`, if you
    leave it earlier.

    Raises (while iterating):
        GatewayError: The stream failed for good, and with it all watches.

    """

    def __init__(
        self,
        connections: Connections,
        credential: Credential,
        starts: list[pb.WatchJobRequest],
        deadline: Deadline,
        on_resume: calls.OnRetry | None,
        on_retry: calls.OnRetry | None,
    ) -> None:
        self._connections = connections
        self._credential = credential
        self._rules = ManyRules(starts)
        self._deadline = deadline
        self._on_resume = on_resume
        self._on_retry = on_retry
        self._items = self._follow()

    @property
    def pending(self) -> int:
        """The number of jobs that have not ended, and whose watch has not failed."""
        return self._rules.pending

    def result(self, uid: int) -> bytearray:
        """Return the JSON of the result of a job as far as it has arrived.

        It is complete and verified with the end of the job, and released with the next event.
        """
        return self._rules.result(uid)

    async def close(self) -> None:
        """Leave the watches. The jobs continue."""
        await self._items.aclose()

    def __aiter__(self) -> AsyncIterator[pb.JobEvent | WatchFailed]:
        return self

    async def __anext__(self) -> pb.JobEvent | WatchFailed:
        return await anext(self._items)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _follow(self) -> AsyncGenerator[pb.JobEvent | WatchFailed]:
        rules = self._rules
        while rules.pending:
            token, fresh_token = await self._credential.token(), False
            async with self._connections.lease() as connection:
                rules.opened(time.monotonic())
                requests = _Requests(rules)
                call = connection.stub.WatchJobs(
                    requests.all(), metadata=calls.metadata(token, None), timeout=self._deadline.left()
                )
                status = _Status(call)
                try:
                    while isinstance(event := await self._next(call, status), pb.JobEvent):
                        outcome = rules.take(event, time.monotonic())
                        if isinstance(outcome, LoginNeeded):
                            if fresh_token := await self._credential.renew(token):
                                event = outcome.error
                                break
                            outcome = rules.without_login(outcome, time.monotonic())
                        requests.changed()
                        if item := self._item(outcome):
                            yield item
                finally:
                    requests.close()
                    # A call that was merely abandoned stays open (grpc/grpc#43462).
                    call.cancel()
            if rules.pending:
                await self._resume(event, token, connection, fresh_token=fresh_token)

    async def _next(self, call: Any, status: _Status) -> pb.JobEvent | GatewayError:
        """Return the next event, or the reason why there is none."""
        limit = self._rules.silence if self._rules.pending else calls.END_SECONDS
        try:
            with gateway_errors(self._connections):
                async with asyncio.timeout(limit):
                    event = await call.read()
        except TimeoutError:
            return silent_stream(limit)
        except GatewayError as error:
            return status.error or error
        return event if isinstance(event, pb.JobEvent) else stream_without_end()

    async def _resume(
        self, error: GatewayError, token: str | None, connection: Connection, *, fresh_token: bool
    ) -> None:
        """Wait until the next stream may be opened. Raises the error if it is final."""
        if self._connections.closed or self._deadline.left() == 0:
            raise error
        fresh_token = fresh_token or (self._rules.wants_token(error) and await self._credential.renew(token))
        retry = self._rules.resume(error, time.monotonic(), fresh_token=fresh_token)
        if retry is None:
            raise error
        calls.check_time(retry, self._deadline)
        if self._on_resume is not None:
            self._on_resume(retry)
        await asyncio.sleep(retry.wait)
        if retry.new_connection:
            await self._connections.replace(connection)

    def _item(self, outcome: pb.JobEvent | WatchFailed | Retry | None) -> pb.JobEvent | WatchFailed | None:
        if isinstance(outcome, Retry):
            if self._on_retry is not None:
                self._on_retry(outcome)
            return None
        return outcome


class _Status:
    """The status of a call as it arrived.

    If a write fails afterwards, grpc.aio raises INTERNAL instead (grpc/grpc#36066), usually if there are many requests.

    Attributes:
        error: The error that it means, or None as long as the call is open.

    """

    def __init__(self, call: Any) -> None:
        self.error: GatewayError | None = None
        call.add_done_callback(self._done)

    def _done(self, call: Any) -> None:
        code, details, trailers = map(_completed, (call.code(), call.details(), call.trailing_metadata()))
        self.error = stream_without_end() if code is grpc.StatusCode.OK else from_status(code, details, trailers)


def _completed(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the call is not done")


class _Requests:
    """The requests of one stream, which end when no job is pending."""

    def __init__(self, rules: ManyRules) -> None:
        self._rules = rules
        self._changed = asyncio.Event()
        self._closed = False

    async def all(self) -> AsyncIterator[pb.WatchJobsRequest]:
        """Yield each request when it is due."""
        while self._rules.pending and not self._closed:
            now = time.monotonic()
            if request := self._rules.next_request(now):
                yield request
                continue
            self._changed.clear()
            due = self._rules.next_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else due - now):
                    await self._changed.wait()

    def changed(self) -> None:
        """Note that the rules may have another request, or no pending job."""
        self._changed.set()

    def close(self) -> None:
        """End the requests."""
        self._closed = True
        self._changed.set()
