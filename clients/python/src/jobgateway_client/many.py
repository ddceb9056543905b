"""The sync watch of many jobs on one stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client import calls
from jobgateway_client.errors import GatewayError, from_rpc_error, silent_stream, stream_without_end
from jobgateway_client.many_rules import LoginNeeded, ManyRules, WatchFailed
from jobgateway_client.rules import Retry
from jobgateway_client.silence import Listener

if TYPE_CHECKING:
    from jobgateway_client.connections import Connection, Connections, Credential
    from jobgateway_client.deadline import Deadline


class WatchAll:
    """The events of many jobs until each has ended, on one stream that is resumed as often as necessary.

    Iterate over it once. Its items are the events, as of a `Watch`, and a `WatchFailed` for each job whose watch failed
    for good; the other watches continue. Events with the uid 0 are about the stream. Use it as a context manager, or
    call `close`, if you leave it earlier.

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

    def close(self) -> None:
        """Leave the watches. The jobs continue."""
        self._items.close()

    def __iter__(self) -> Iterator[pb.JobEvent | WatchFailed]:
        return self

    def __next__(self) -> pb.JobEvent | WatchFailed:
        return next(self._items)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _follow(self) -> Generator[pb.JobEvent | WatchFailed]:
        rules = self._rules
        while rules.pending:
            token = self._credential.token()
            with self._connections.lease() as connection:
                error, fresh_token = yield from self._stream(connection, token)
            if error is None:
                return
            if self._connections.closed or self._deadline.left() == 0:
                raise error
            fresh_token = fresh_token or (rules.wants_token(error) and self._credential.renew(token))
            retry = rules.resume(error, time.monotonic(), fresh_token=fresh_token)
            if retry is None:
                raise error
            calls.check_time(retry, self._deadline)
            if self._on_resume is not None:
                self._on_resume(retry)
            time.sleep(retry.wait)
            if retry.new_connection:
                self._connections.replace(connection)

    def _stream(
        self, connection: Connection, token: str | None
    ) -> Generator[pb.JobEvent | WatchFailed, None, tuple[GatewayError | None, bool]]:
        """Yield the items of one call.

        Returns:
            Why the call ended, None if all jobs have ended; and whether a fresh token was needed, and there is one.

        """
        rules = self._rules
        rules.opened(time.monotonic())
        requests = _Requests(rules)
        try:
            call = connection.stub.WatchJobs(
                requests, metadata=calls.metadata(token, None), timeout=self._deadline.left()
            )
        except ValueError:
            # gRPC's error for a closed channel.
            if not self._connections.closed:
                raise
            return calls.closed_error(), False
        error = stream_without_end()
        with Listener(call) as listener:
            try:
                while event := listener.next(rules.silence if rules.pending else calls.END_SECONDS):
                    with requests.changing():
                        outcome = rules.take(event, time.monotonic())
                    if isinstance(outcome, LoginNeeded):
                        if self._credential.renew(token):
                            return outcome.error, True
                        with requests.changing():
                            outcome = rules.without_login(outcome, time.monotonic())
                    if item := self._item(outcome):
                        yield item
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error)
            finally:
                requests.close()
                # A call that was merely abandoned stays open (grpc/grpc#43462).
                call.cancel()
        if not rules.pending:
            return None, False
        # Silence counts, whatever status arrived before the call was cancelled.
        return silent_stream(rules.silence) if listener.given_up else error, False

    def _item(self, outcome: pb.JobEvent | WatchFailed | Retry | None) -> pb.JobEvent | WatchFailed | None:
        if isinstance(outcome, Retry):
            if self._on_retry is not None:
                self._on_retry(outcome)
            return None
        return outcome


class _Requests:
    """The requests of one stream, which end when no job is pending. gRPC iterates over them in a thread."""

    def __init__(self, rules: ManyRules) -> None:
        self._rules = rules
        self._changed = threading.Condition()
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pb.WatchJobsRequest:
        with self._changed:
            while self._rules.pending and not self._closed:
                now = time.monotonic()
                if request := self._rules.next_request(now):
                    return request
                due = self._rules.next_due()
                self._changed.wait(None if due is None else due - now)
        raise StopIteration

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Change the rules while the stream is open."""
        with self._changed:
            yield
            self._changed.notify()

    def close(self) -> None:
        """End the requests."""
        with self.changing():
            self._closed = True
