"""The asyncio client. One client serves many tasks and watches of one event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client import calls
from jobgateway_client.aio_connections import AsyncToken, Connection, Connections, Credential, gateway_errors
from jobgateway_client.aio_many import AsyncWatchAll
from jobgateway_client.deadline import Deadline
from jobgateway_client.errors import GatewayError, silent_stream, stream_without_end
from jobgateway_client.result import Result, stream_result
from jobgateway_client.rules import DEFAULT_ATTEMPTS, CallRules, WatchRules

if TYPE_CHECKING:
    from jobgateway_client.tls import Tls


class AsyncClient:
    """A client of a gateway. Create it in the event loop that uses it.

    The arguments are those of `Client`.
    """

    def __init__(
        self,
        target: str,
        *,
        token: AsyncToken | None = None,
        tls: Tls | None = None,
        service_config: str | None = None,
        attempts: int = DEFAULT_ATTEMPTS,
        options: calls.Options = (),
    ) -> None:
        self._connections = Connections(target, tls, calls.channel_options(service_config, options))
        self._credential = Credential(token)
        self._attempts = attempts

    async def send(
        self,
        request: pb.SendJobRequest,
        *,
        timeout: float | None = None,
        on_retry: calls.OnRetry | None = None,
        on_replayed: calls.OnReplayed | None = None,
    ) -> pb.Job:
        """Send a job.

        The request is sent again if certainly no job was created, or if it has a `request_id`, which makes that safe.

        Raises:
            GatewayError: The job was not sent, or the outcome is unknown (`rules.after_send`).

        """
        return await self._call("SendJob", request, Deadline(timeout), on_retry, on_replayed)

    async def get(
        self,
        uid: int | pb.GetJobRequest,
        *,
        timeout: float | None = None,
        on_retry: calls.OnRetry | None = None,
    ) -> pb.Job:
        """Read a job once.

        Raises:
            GatewayError: The job could not be read.

        """
        request = uid if isinstance(uid, pb.GetJobRequest) else pb.GetJobRequest(uid=uid)
        return await self._call("GetJob", request, Deadline(timeout), on_retry)

    async def cancel(self, uid: int, *, timeout: float | None = None, on_retry: calls.OnRetry | None = None) -> pb.Job:
        """Ask to cancel a job, and return its state. The job may continue for a while.

        Raises:
            GatewayError: The request failed.

        """
        return await self._call("CancelJob", pb.CancelJobRequest(uid=uid), Deadline(timeout), on_retry)

    async def wait(
        self,
        uid: int | pb.WaitJobRequest,
        *,
        timeout: float | None = None,
        on_retry: calls.OnRetry | None = None,
    ) -> pb.Job:
        """Wait until a job is done, without a stream.

        A request with a `timeout` is one call, whose job may not be done.

        Raises:
            GatewayError: The job could not be read.

        """
        deadline = Deadline(timeout)
        request = uid if isinstance(uid, pb.WaitJobRequest) else pb.WaitJobRequest(uid=uid)
        while True:
            job = await self._call("WaitJob", request, deadline, on_retry)
            if calls.is_waited_for(job, request, deadline):
                return job

    def run(
        self,
        request: pb.SendJobRequest | pb.RunJobRequest,
        *,
        timeout: float | None = None,
        on_resume: calls.OnRetry | None = None,
        on_progress: calls.OnProgress | None = None,
    ) -> AsyncWatch:
        """Send a job and watch it in one stream. See `AsyncWatch`."""
        return self._watch(calls.run_request(request), timeout, on_resume, on_progress)

    def watch(
        self,
        uid: int | pb.WatchJobRequest,
        *,
        timeout: float | None = None,
        on_resume: calls.OnRetry | None = None,
        on_progress: calls.OnProgress | None = None,
    ) -> AsyncWatch:
        """Watch a job until it ends. See `AsyncWatch`."""
        return self._watch(calls.watch_request(uid), timeout, on_resume, on_progress)

    def watch_all(
        self,
        uids: Iterable[int | pb.WatchJobRequest],
        *,
        timeout: float | None = None,
        on_resume: calls.OnRetry | None = None,
        on_retry: calls.OnRetry | None = None,
    ) -> AsyncWatchAll:
        """Watch many jobs until all have ended, on one stream. See `AsyncWatchAll`.

        `on_resume` is called before another stream, and `on_retry` before another attempt to watch the job `error.uid`.
        """
        starts = [calls.watch_request(each) for each in uids]
        return AsyncWatchAll(self._connections, self._credential, starts, Deadline(timeout), on_resume, on_retry)

    async def close(self) -> None:
        """Close the connections. Calls that are in flight fail."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _watch(
        self,
        start: pb.RunJobRequest | pb.WatchJobRequest,
        timeout: float | None,
        on_resume: calls.OnRetry | None,
        on_progress: calls.OnProgress | None,
    ) -> AsyncWatch:
        return AsyncWatch(self._connections, self._credential, start, Deadline(timeout), on_resume, on_progress)

    async def _call(
        self,
        method: str,
        request: Any,
        deadline: Deadline,
        on_retry: calls.OnRetry | None,
        on_replayed: calls.OnReplayed | None = None,
    ) -> pb.Job:
        rules = CallRules(request, self._attempts)
        while True:
            token = await self._credential.token()
            async with self._connections.lease() as connection:
                try:
                    with gateway_errors(self._connections):
                        call = getattr(connection.stub, method)(
                            request,
                            metadata=calls.metadata(token, request),
                            timeout=deadline.within(calls.call_seconds(request)),
                        )
                        job = await call
                        trailers = await call.trailing_metadata()
                except GatewayError as failed:
                    error = failed
                else:
                    Result.of(job)
                    calls.tell_replayed(trailers, on_replayed)
                    return cast("pb.Job", job)
            if self._connections.closed or deadline.left() == 0:
                raise error
            fresh_token = rules.wants_token(error) and await self._credential.renew(token)
            retry = rules.retry(error, fresh_token=fresh_token)
            if retry is None:
                raise error
            calls.check_time(retry, deadline)
            if on_retry is not None:
                on_retry(retry)
            await asyncio.sleep(retry.wait)
            if retry.new_connection:
                await self._connections.replace(connection)


class AsyncWatch:
    """The events of a job until it ends, over as many streams as necessary.

    Iterate over it once. The last event has `job.done`; every other end is an error. The watch resumes after each
    broken stream. Use it as an async context manager, or call `close`, if you leave it earlier.

    Attributes:
        job: The last state of the job, or None before the first one.
        replayed: See `Watch`.

    Raises (while iterating):
        GatewayError: A final error.
        ResultDamagedError: The result does not match its SHA-256.

    """

    def __init__(
        self,
        connections: Connections,
        credential: Credential,
        start: pb.RunJobRequest | pb.WatchJobRequest,
        deadline: Deadline,
        on_resume: calls.OnRetry | None,
        on_progress: calls.OnProgress | None,
    ) -> None:
        self.job: pb.Job | None = None
        self.replayed = False
        self._connections = connections
        self._credential = credential
        self._rules = WatchRules(start)
        self._result = stream_result(start)
        self._deadline = deadline
        self._on_resume = on_resume
        self._on_progress = on_progress
        self._events = self._follow()

    @property
    def uid(self) -> int:
        """The job, or 0 if it is not known yet."""
        return self._rules.uid

    @property
    def result(self) -> bytearray:
        """The JSON of the result as far as it has arrived. It is verified when the iteration ends."""
        return self._result.data

    async def finish(self) -> calls.Finished:
        """Read the remaining events, and return the job and its result."""
        async for _ in self:
            pass
        return calls.Finished(self.job or pb.Job(), bytes(self.result))

    async def close(self) -> None:
        """Leave the watch. The job continues."""
        await self._events.aclose()

    def __aiter__(self) -> AsyncIterator[pb.JobEvent]:
        return self

    async def __anext__(self) -> pb.JobEvent:
        return await anext(self._events)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _follow(self) -> AsyncGenerator[pb.JobEvent]:
        rules = self._rules
        while True:
            token = await self._credential.token()
            async with self._connections.lease() as connection:
                call = self._open(connection, token)
                try:
                    while isinstance(event := await self._next(call), pb.JobEvent):
                        rules.heard(event, time.monotonic())
                        self._take(event)
                        yield event
                    if event.code is grpc.StatusCode.OK:
                        self.replayed |= calls.is_replayed(await call.trailing_metadata())
                finally:
                    # A call that was merely abandoned stays open (grpc/grpc#43462).
                    call.cancel()
            if rules.done:
                return
            await self._resume(event, token, connection)

    def _open(self, connection: Connection, token: str | None) -> Any:
        request = self._rules.request
        method = connection.stub.RunJob if isinstance(request, pb.RunJobRequest) else connection.stub.WatchJob
        self._rules.opened(time.monotonic())
        return method(request, metadata=calls.metadata(token, request), timeout=self._deadline.left())

    async def _next(self, call: Any) -> pb.JobEvent | GatewayError:
        """Return the next event, or the reason why there is none."""
        limit = calls.END_SECONDS if self._rules.done else self._rules.silence
        try:
            with gateway_errors(self._connections):
                async with asyncio.timeout(limit):
                    event = await call.read()
        except TimeoutError:
            return silent_stream(limit)
        except GatewayError as error:
            return error
        return event if isinstance(event, pb.JobEvent) else stream_without_end()

    def _take(self, event: pb.JobEvent) -> None:
        self._result.take(event)
        if event.HasField("job"):
            self.job = event.job
            if self._on_progress is not None:
                self._on_progress(event.job)

    async def _resume(self, error: GatewayError, token: str | None, connection: Connection) -> None:
        """Wait until the next call may be made. Raises the error if it is final."""
        if self._connections.closed or self._deadline.left() == 0:
            raise error
        fresh_token = self._rules.wants_token(error) and await self._credential.renew(token)
        retry = self._rules.resume(error, fresh_token=fresh_token)
        if retry is None:
            raise error
        calls.check_time(retry, self._deadline)
        if self._on_resume is not None:
            self._on_resume(retry)
        await asyncio.sleep(retry.wait)
        if retry.new_connection:
            await self._connections.replace(connection)
