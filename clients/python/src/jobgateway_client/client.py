"""The sync client. One client serves many threads and watches."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self, cast

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client import calls
from jobgateway_client.connections import Connection, Connections, Credential, Token
from jobgateway_client.deadline import Deadline
from jobgateway_client.errors import GatewayError, from_rpc_error, silent_stream, stream_without_end
from jobgateway_client.many import WatchAll
from jobgateway_client.result import Result, stream_result
from jobgateway_client.rules import DEFAULT_ATTEMPTS, CallRules, WatchRules
from jobgateway_client.silence import Listener

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
        tls: Tls | None = None,
        service_config: str | None = None,
        attempts: int = DEFAULT_ATTEMPTS,
        options: calls.Options = (),
    ) -> None:
        self._connections = Connections(target, tls, calls.channel_options(service_config, options))
        self._credential = Credential(token)
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

        The request is sent again if certainly no job was created, or if it has a `request_id`, which makes that safe.

        Raises:
            GatewayError: The job was not sent, or the outcome is unknown (`rules.after_send`).

        """
        return self._call("SendJob", request, Deadline(timeout), on_retry, on_replayed)

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

        A request with a `timeout` is one call, whose job may not be done.

        Raises:
            GatewayError: The job could not be read.

        """
        deadline = Deadline(timeout)
        request = uid if isinstance(uid, pb.WaitJobRequest) else pb.WaitJobRequest(uid=uid)
        while True:
            job = self._call("WaitJob", request, deadline, on_retry)
            if calls.is_waited_for(job, request, deadline):
                return job

    def run(
        self,
        request: pb.SendJobRequest | pb.RunJobRequest,
        *,
        timeout: float | None = None,
        on_resume: calls.OnRetry | None = None,
        on_progress: calls.OnProgress | None = None,
    ) -> Watch:
        """Send a job and watch it in one stream. See `Watch`."""
        return self._watch(calls.run_request(request), timeout, on_resume, on_progress)

    def watch(
        self,
        uid: int | pb.WatchJobRequest,
        *,
        timeout: float | None = None,
        on_resume: calls.OnRetry | None = None,
        on_progress: calls.OnProgress | None = None,
    ) -> Watch:
        """Watch a job until it ends. See `Watch`."""
        return self._watch(calls.watch_request(uid), timeout, on_resume, on_progress)

    def watch_all(
        self,
        uids: Iterable[int | pb.WatchJobRequest],
        *,
        timeout: float | None = None,
        on_resume: calls.OnRetry | None = None,
        on_retry: calls.OnRetry | None = None,
    ) -> WatchAll:
        """Watch many jobs until all have ended, on one stream. See `WatchAll`.

        `on_resume` is called before another stream, and `on_retry` before another attempt to watch the job `error.uid`.
        """
        starts = [calls.watch_request(each) for each in uids]
        return WatchAll(self._connections, self._credential, starts, Deadline(timeout), on_resume, on_retry)

    def close(self) -> None:
        """Close the connections. Calls that are in flight fail."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch(
        self,
        start: pb.RunJobRequest | pb.WatchJobRequest,
        timeout: float | None,
        on_resume: calls.OnRetry | None,
        on_progress: calls.OnProgress | None,
    ) -> Watch:
        return Watch(self._connections, self._credential, start, Deadline(timeout), on_resume, on_progress)

    def _call(
        self,
        method: str,
        request: Any,
        deadline: Deadline,
        on_retry: calls.OnRetry | None,
        on_replayed: calls.OnReplayed | None = None,
    ) -> pb.Job:
        rules = CallRules(request, self._attempts)
        while True:
            token = self._credential.token()
            with self._connections.lease() as connection:
                try:
                    job, call = getattr(connection.stub, method).with_call(
                        request,
                        metadata=calls.metadata(token, request),
                        timeout=deadline.within(calls.call_seconds(request)),
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
                    calls.tell_replayed(call.trailing_metadata(), on_replayed)
                    return cast("pb.Job", job)
            if self._connections.closed or deadline.left() == 0:
                raise error
            fresh_token = rules.wants_token(error) and self._credential.renew(token)
            retry = rules.retry(error, fresh_token=fresh_token)
            if retry is None:
                raise error
            calls.check_time(retry, deadline)
            if on_retry is not None:
                on_retry(retry)
            time.sleep(retry.wait)
            if retry.new_connection:
                self._connections.replace(connection)


class Watch:
    """The events of a job until it ends, over as many streams as necessary.

    Iterate over it once. The last event has `job.done`; every other end is an error. The watch resumes after each
    broken stream. Use it as a context manager, or call `close`, if you leave it earlier.

    Attributes:
        job: The last state of the job, or None before the first one.
        replayed: True if the job was sent earlier with the same `request_id`. It is known when the first stream of
            `run` has ended with the job, and stays False if that stream was broken.

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

    def finish(self) -> calls.Finished:
        """Read the remaining events, and return the job and its result."""
        for _ in self:
            pass
        return calls.Finished(self.job or pb.Job(), bytes(self.result))

    def close(self) -> None:
        """Leave the watch. The job continues."""
        self._events.close()

    def __iter__(self) -> Iterator[pb.JobEvent]:
        return self

    def __next__(self) -> pb.JobEvent:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _follow(self) -> Generator[pb.JobEvent]:
        while True:
            token = self._credential.token()
            with self._connections.lease() as connection:
                error = yield from self._stream(connection, token)
            if error is None:
                return
            if self._connections.closed or self._deadline.left() == 0:
                raise error
            fresh_token = self._rules.wants_token(error) and self._credential.renew(token)
            retry = self._rules.resume(error, fresh_token=fresh_token)
            if retry is None:
                raise error
            calls.check_time(retry, self._deadline)
            if self._on_resume is not None:
                self._on_resume(retry)
            time.sleep(retry.wait)
            if retry.new_connection:
                self._connections.replace(connection)

    def _stream(self, connection: Connection, token: str | None) -> Generator[pb.JobEvent, None, GatewayError | None]:
        """Yield the events of one call; return why it ended, or None if the job has ended."""
        rules, request = self._rules, self._rules.request
        method = connection.stub.RunJob if isinstance(request, pb.RunJobRequest) else connection.stub.WatchJob
        rules.opened(time.monotonic())
        try:
            call = method(request, metadata=calls.metadata(token, request), timeout=self._deadline.left())
        except ValueError:
            # gRPC's error for a closed channel.
            if not self._connections.closed:
                raise
            return calls.closed_error()
        error = stream_without_end()
        with Listener(call) as listener:
            try:
                while event := listener.next(calls.END_SECONDS if rules.done else rules.silence):
                    rules.heard(event, time.monotonic())
                    self._take(event)
                    yield event
                if not listener.given_up:
                    self.replayed |= calls.is_replayed(call.trailing_metadata())
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error)
            finally:
                # A call that was merely abandoned stays open (grpc/grpc#43462).
                call.cancel()
        if rules.done:
            return None
        # Silence counts, whatever status arrived before the call was cancelled.
        return silent_stream(rules.silence) if listener.given_up else error

    def _take(self, event: pb.JobEvent) -> None:
        self._result.take(event)
        if event.HasField("job"):
            self.job = event.job
            if self._on_progress is not None:
                self._on_progress(event.job)
