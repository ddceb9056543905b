"""The sync client. One client serves many threads and watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from queue import Queue
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

import grpc
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from jobgateway_client import calls
from jobgateway_client.deadline import Deadline
from jobgateway_client.errors import GatewayError, from_rpc_error, silent_stream, stream_without_end
from jobgateway_client.result import Result, stream_result
from jobgateway_client.rules import DEFAULT_ATTEMPTS, CallRules, WatchRules

if TYPE_CHECKING:
    from jobgateway_client.tls import Tls

Token: TypeAlias = str | Callable[[], str | None]
"""A token, or a function that returns one.

The function is called before the first call, and again whenever the gateway rejects the token. It returns None if there
is no (other) token: a first call is then made without one, and a rejected call fails.
"""


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
        self._connections = _Connections(target, tls, calls.channel_options(service_config, options))
        self._credential = _Credential(token)
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
        self, uids: Iterable[int | pb.WatchJobRequest], *, on_resume: calls.OnRetry | None = None
    ) -> Generator[pb.JobEvent]:
        """Watch several jobs until all have ended, and yield their events as they arrive. Each job takes a thread.

        Raises:
            GatewayError: A watch failed. The other watches end too.

        """
        watches = [self.watch(each, on_resume=on_resume) for each in uids]
        # One event of each watch, so that a slow consumer slows the streams down.
        queue: Queue[pb.JobEvent | BaseException | None] = Queue(maxsize=max(1, len(watches)))
        left = threading.Event()
        for each in watches:
            threading.Thread(target=_pump, args=(each, queue, left), daemon=True).start()
        ended = 0
        try:
            while ended < len(watches):
                match queue.get():
                    case None:
                        ended += 1
                    case BaseException() as error:
                        raise error
                    case event:
                        yield event
        finally:
            left.set()
            for each in watches:
                each.cancel()
            while not queue.empty():
                queue.get_nowait()

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
        connections: _Connections,
        credential: _Credential,
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
        self._left = threading.Event()
        self._call: Any = None
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

    def cancel(self) -> None:
        """End the watch from another thread. The job continues."""
        self._left.set()
        call = self._call
        if call is not None:
            call.cancel()

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
            if self._left.is_set():
                raise calls.cancelled_error()
            token = self._credential.token()
            with self._connections.lease() as connection:
                error = yield from self._stream(connection, token)
            if error is None:
                return
            if self._left.is_set() or self._connections.closed or self._deadline.left() == 0:
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

    def _stream(self, connection: _Connection, token: str | None) -> Generator[pb.JobEvent, None, GatewayError | None]:
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
        self._call = call
        silence = _Silence(call)
        error = stream_without_end()
        try:
            while event := silence.next(calls.END_SECONDS if rules.done else rules.silence):
                rules.heard(event, time.monotonic())
                self._take(event)
                yield event
            if not silence.given_up:
                self.replayed |= calls.is_replayed(call.trailing_metadata())
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
        finally:
            # A call that was merely abandoned stays open (grpc/grpc#43462).
            call.cancel()
        if rules.done:
            return None
        # Silence counts, whatever status arrived before the call was cancelled.
        return silent_stream(rules.silence) if silence.given_up else error

    def _take(self, event: pb.JobEvent) -> None:
        self._result.take(event)
        if event.HasField("job"):
            self.job = event.job
            if self._on_progress is not None:
                self._on_progress(event.job)


class _Silence:
    """The events of a call, which is cancelled if one takes too long. The sync iterator has no timeout."""

    def __init__(self, call: Any) -> None:
        self.given_up = False
        self._call = call

    def next(self, limit: float) -> pb.JobEvent | None:
        """Return the next event, or None after the last one. `limit` is in seconds."""
        timer = threading.Timer(limit, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            return cast("pb.JobEvent | None", next(self._call, None))
        except RuntimeError as error:
            # Ctrl-C while `threading.Condition.wait` has released its lock is replaced by this error.
            if isinstance(error.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            raise
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self.given_up = True
        self._call.cancel()


class _Connection:
    """A channel, and the number of calls over it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.stub: calls.Stub = rpc.JobServiceStub(channel)
        self.calls = 0


class _Connections:
    """The current connection of a client, and the older ones that still have calls.

    Several calls share a connection. The first of them that finds it broken replaces it for all; the old one is closed
    after its last call, because closing it earlier would cancel its other calls.
    """

    def __init__(self, target: str, tls: Tls | None, options: list[tuple[str, int | str]]) -> None:
        self.closed = False
        self._target = target
        self._credentials = None if tls is None else tls.credentials()
        self._options = options
        self._lock = threading.Lock()
        self._current = self._connect()
        self._used = {self._current}

    def _connect(self) -> _Connection:
        if self._credentials is None:
            return _Connection(grpc.insecure_channel(self._target, self._options))
        return _Connection(grpc.secure_channel(self._target, self._credentials, self._options))

    @contextmanager
    def lease(self) -> Iterator[_Connection]:
        """Use the current connection for one call.

        Raises:
            GatewayError: The client was closed.

        """
        with self._lock:
            if self.closed:
                raise calls.closed_error()
            connection = self._current
            connection.calls += 1
        try:
            yield connection
        finally:
            with self._lock:
                connection.calls -= 1
                unused = not connection.calls and connection is not self._current and connection in self._used
                if unused:
                    self._used.remove(connection)
            if unused:
                connection.channel.close()

    def replace(self, connection: _Connection) -> None:
        """Use a new connection from now on, unless another call has already replaced this one."""
        with self._lock:
            if self.closed or connection is not self._current:
                return
            self._current = self._connect()
            self._used.add(self._current)
            unused = not connection.calls
            if unused:
                self._used.remove(connection)
        if unused:
            connection.channel.close()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            self.closed = True
            used, self._used = self._used, set()
        for connection in used:
            connection.channel.close()


class _Credential:
    """The token of a client, which its calls share."""

    def __init__(self, source: Token | None) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._asked = False
        self._token: str | None = None

    def token(self) -> str | None:
        """Return the current token."""
        with self._lock:
            if not self._asked:
                self._token = calls.checked_token(self._ask())
                self._asked = True
            return self._token

    def renew(self, rejected: str | None) -> bool:
        """Get another token than the one that was rejected; return False if there is none."""
        with self._lock:
            # Another call may have renewed it meanwhile.
            if self._token != rejected:
                return True
            fresh = calls.checked_token(self._ask()) if callable(self._source) else None
            if fresh is None:
                return False
            self._token = fresh
            return True

    def _ask(self) -> str | None:
        return self._source() if callable(self._source) else self._source


def _pump(watch: Watch, queue: Queue[pb.JobEvent | BaseException | None], left: threading.Event) -> None:
    """Move the events of a watch into a queue, then None or the error that ended it."""
    try:
        for event in watch:
            if left.is_set():
                return
            queue.put(event)
        queue.put(None)
    except BaseException as error:  # noqa: BLE001 - it is raised in the thread that reads the queue
        if not left.is_set():
            queue.put(error)
