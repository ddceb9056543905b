"""The sync client. One client serves many threads and watches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client import calls
from jobgateway_client.connections import Connections
from jobgateway_client.credential import Credential, Token
from jobgateway_client.deadline import Deadline
from jobgateway_client.errors import GatewayError, from_rpc_error
from jobgateway_client.many import Requests, WatchAll
from jobgateway_client.many_jobs import ManyJobs
from jobgateway_client.one_job import OneJob
from jobgateway_client.result import Result
from jobgateway_client.rules import DEFAULT_ATTEMPTS, CallRules
from jobgateway_client.waiting import Waiting
from jobgateway_client.watch import Watch

if TYPE_CHECKING:
    from jobgateway_client.tls import Tls


class Client:
    """A client of a gateway.

    Args:
        target: The address of the gateway, such as `127.0.0.1:50051`, or any name that gRPC resolves.
        token: The bearer token, a function that returns it, or None for a gateway with its own token.
        tls: TLS; None is plaintext.
        service_config: A gRPC service config as JSON (docs/clients/index.md#the-service-config).
        attempts: How often a unary call is made in total if its errors permit a retry, 1 or more.
        options: Further gRPC channel options, which replace the client's own.

    """

    def __init__(
        self,
        target: str,
        *,
        token: Token | None = None,
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

    def send(
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
        return self._call("SendJob", calls.send_request(request), Deadline(timeout), on_retry, on_replayed)

    def get(
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
        return self._call("GetJob", request, Deadline(timeout), on_retry)

    def cancel(self, uid: int, *, timeout: float | None = None, on_retry: calls.OnRetry | None = None) -> pb.Job:
        """Ask to cancel a job, and return its state. The job may continue for a while.

        Raises:
            GatewayError: The request failed.

        """
        return self._call("CancelJob", pb.CancelJobRequest(uid=uid), Deadline(timeout), on_retry)

    def wait(
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
                job = self._call("WaitJob", request, deadline, on_retry)
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
    ) -> Watch:
        """Send a job and watch it in one stream. See `Watch`."""
        return self._watch(calls.run_request(request), timeout, on_retry, on_progress)

    def watch(
        self,
        uid: int | pb.WatchJobRequest,
        *,
        timeout: float | None = None,
        on_retry: calls.OnRetry | None = None,
        on_progress: calls.OnProgress | None = None,
    ) -> Watch:
        """Watch a job until it ends. See `Watch`."""
        return self._watch(calls.watch_request(uid), timeout, on_retry, on_progress)

    def watch_all(
        self,
        uids: Iterable[int | pb.WatchJobRequest],
        *,
        timeout: float | None = None,
        on_retry: calls.OnRetry | None = None,
    ) -> WatchAll:
        """Watch many jobs until all have ended, on one stream. See `WatchAll`.

        `on_retry` is called before another stream (`retry.uid` is 0), and before another attempt to watch the job
        `retry.uid` on the same stream.
        """
        calls.check_callbacks(on_retry)
        deadline = Deadline(timeout)
        jobs = ManyJobs(map(calls.watch_request, uids), deadline, on_retry, Requests)
        return WatchAll(self._connections, self._credential, jobs, deadline, on_retry)

    def close(self) -> None:
        """Close the connections. Calls that are in flight fail, and waits end."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch(
        self,
        start: pb.RunJobRequest | pb.WatchJobRequest,
        timeout: float | None,
        on_retry: calls.OnRetry | None,
        on_progress: calls.OnProgress | None,
    ) -> Watch:
        calls.check_callbacks(on_retry, on_progress)
        deadline = Deadline(timeout)
        job = OneJob(start, deadline, on_progress)
        return Watch(self._connections, self._credential, job, deadline, on_retry)

    def _call(
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
            token = self._credential.token(waiting)
            attempt = calls.next_request(request, deadline)
            with self._connections.lease() as connection:
                try:
                    job, call = getattr(connection.stub, method).with_call(
                        attempt,
                        metadata=calls.metadata(token, attempt),
                        timeout=deadline.within(calls.call_seconds(attempt)),
                    )
                except grpc.RpcError as rpc_error:
                    error = from_rpc_error(rpc_error)
                except ValueError:
                    # gRPC's error for a closed channel.
                    if not self._connections.closed:
                        raise
                    raise calls.closed_error() from None
                else:
                    Result.of(job)
                    calls.report_replayed(call.trailing_metadata(), on_replayed)
                    return cast("pb.Job", job)
            waiting.check()
            deadline.failed(error)
            fresh_token = rules.wants_token(error) and self._credential.renew(token, waiting)
            retry = rules.retry(error, fresh_token=fresh_token)
            if retry is None:
                raise error
            deadline.check(retry.wait)
            if on_retry is not None:
                on_retry(retry)
            waiting.sleep(retry.wait)
            if retry.new_connection:
                self._connections.replace(connection)
