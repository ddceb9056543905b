"""The asyncio client. One client serves many tasks and watches of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client import calls
from jobgateway_client.aio_connections import Connections
from jobgateway_client.aio_credential import AsyncToken, Credential
from jobgateway_client.aio_many import AsyncWatchAll, Requests
from jobgateway_client.aio_waiting import Waiting
from jobgateway_client.aio_watch import AsyncWatch
from jobgateway_client.deadline import Deadline
from jobgateway_client.errors import GatewayError, from_rpc_error
from jobgateway_client.many_jobs import ManyJobs
from jobgateway_client.one_job import OneJob
from jobgateway_client.result import Result
from jobgateway_client.rules import DEFAULT_ATTEMPTS, CallRules

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
        tls: Tls | grpc.ChannelCredentials | None = None,
        service_config: str | None = None,
        attempts: int = DEFAULT_ATTEMPTS,
        options: calls.Options = (),
    ) -> None:
        # Before anything that must be closed.
        calls.checked_token(None if callable(token) else token)
        credentials = calls.channel_credentials(tls)
        self._connections = Connections(
            calls.checked_target(target), credentials, calls.channel_options(service_config, options)
        )
        self._credential = Credential(token, self._connections.closing)
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

        The request is sent again if the gateway guarantees that no job was created, or if it has a `request_id`, which
        makes that safe.

        Raises:
            GatewayError: The job was not sent, or the outcome is unknown (`rules.after_send`).

        """
        return await self._call("SendJob", calls.send_request(request), Deadline(timeout), on_retry, on_replayed)

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

        If the `timeout` passes, or that of the request, the job is returned as it is then, and may not be done. Like a
        watch, the call is repeated as long as no gateway responds, with the rest of the time.

        Raises:
            GatewayError: The job could not be read. `DEADLINE_EXCEEDED` if the time is over; the cause is the last
                failure.

        """
        request = uid if isinstance(uid, pb.WaitJobRequest) else pb.WaitJobRequest(uid=uid)
        deadline = calls.wait_deadline(request, timeout)
        job: pb.Job | None = None
        while True:
            try:
                job = await self._call("WaitJob", request, deadline, on_retry)
            except GatewayError as error:
                if job is None or not calls.is_deadline(error):
                    raise
                return job
            if calls.wait_is_over(job, request, deadline):
                return job

    def run(
        self,
        request: pb.SendJobRequest | pb.RunJobRequest,
        *,
        timeout: float | None = None,
        on_retry: calls.OnRetry | None = None,
        on_progress: calls.OnProgress | None = None,
    ) -> AsyncWatch:
        """Send a job and watch it in one stream. See `AsyncWatch`."""
        return self._watch(calls.run_request(request), timeout, on_retry, on_progress)

    def watch(
        self,
        uid: int | pb.WatchJobRequest,
        *,
        timeout: float | None = None,
        on_retry: calls.OnRetry | None = None,
        on_progress: calls.OnProgress | None = None,
    ) -> AsyncWatch:
        """Watch a job until it ends. See `AsyncWatch`."""
        return self._watch(calls.watch_request(uid), timeout, on_retry, on_progress)

    def watch_all(
        self,
        uids: Iterable[int | pb.WatchJobRequest],
        *,
        timeout: float | None = None,
        on_retry: calls.OnRetry | None = None,
    ) -> AsyncWatchAll:
        """Watch many jobs until all have ended, on one stream. See `AsyncWatchAll`.

        `on_retry` is called before another stream (`retry.uid` is 0), and before another attempt to watch the job
        `retry.uid` on the same stream.
        """
        calls.check_callbacks(on_retry)
        deadline = Deadline(timeout)
        jobs = ManyJobs(map(calls.watch_request, uids), deadline, on_retry, Requests)
        return AsyncWatchAll(self._connections, self._credential, jobs, deadline, on_retry)

    async def close(self) -> None:
        """Close the connections. Calls that are in flight fail, and waits end."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _watch(
        self,
        start: pb.RunJobRequest | pb.WatchJobRequest,
        timeout: float | None,
        on_retry: calls.OnRetry | None,
        on_progress: calls.OnProgress | None,
    ) -> AsyncWatch:
        calls.check_callbacks(on_retry, on_progress)
        deadline = Deadline(timeout)
        job = OneJob(start, deadline, on_progress)
        return AsyncWatch(self._connections, self._credential, job, deadline, on_retry)

    async def _call(
        self,
        method: str,
        request: Any,
        deadline: Deadline,
        on_retry: calls.OnRetry | None,
        on_replayed: calls.OnReplayed | None = None,
    ) -> pb.Job:
        calls.check_callbacks(on_retry, on_replayed)
        rules = CallRules(request, self._attempts)
        waiting = Waiting(self._connections.closing, deadline)
        while True:
            token = await self._credential.token(waiting)
            attempt = calls.next_request(request, deadline)
            with self._connections.lease() as connection:
                outcome = await self._attempt(
                    getattr(connection.stub, method),
                    attempt,
                    metadata=calls.metadata(token, attempt),
                    timeout=deadline.within(calls.call_seconds(attempt)),
                )
            if not isinstance(outcome, GatewayError):
                job, trailers = outcome
                Result.of(job)
                calls.report_replayed(trailers, on_replayed)
                return job
            error = outcome
            waiting.check()
            deadline.failed(error)
            fresh_token = rules.wants_token(error) and await self._credential.renew(token, waiting)
            retry = rules.retry(error, fresh_token=fresh_token)
            if retry is None:
                raise error
            deadline.check(retry.wait)
            if on_retry is not None:
                on_retry(retry)
            await waiting.sleep(retry.wait)
            if retry.new_connection:
                self._connections.replace(connection)

    async def _attempt(self, method: Any, request: Any, **options: Any) -> tuple[pb.Job, Any] | GatewayError:
        """Make one call; return the job and the trailers, or the error.

        An error that was raised here would refer to the call, and keep its connection until the next garbage
        collection.
        """
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        try:
            call = method(request, **options)
            return cast("pb.Job", await call), await call.trailing_metadata()
        except grpc.RpcError as error:
            return from_rpc_error(error)
        except asyncio.CancelledError:
            # If the client is closed, grpc.aio raises it in its calls. That must not look like a cancelled task.
            if not self._connections.closed or (task and task.cancelling() > before):
                raise
        except grpc.aio.UsageError:
            if not self._connections.closed:
                raise
        return calls.closed_error()
