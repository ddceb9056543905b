"""The sync watch of many jobs on one stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client.following import Following
from jobgateway_client.many_jobs import Item, ManyJobsState

if TYPE_CHECKING:
    from jobgateway_client import calls
    from jobgateway_client.connections import Connections
    from jobgateway_client.credential import Credential
    from jobgateway_client.deadline import Deadline
    from jobgateway_client.many_jobs import ManyJobs
    from jobgateway_client.many_rules import ManyRules


class WatchAll(ManyJobsState, Following[Item]):
    """The events of many jobs until each has ended, on one stream that is resumed as often as necessary.

    Iterate over it once. Its items are the events, as of a `Watch`, and a `WatchFailed` for each job whose watch failed
    permanently; the other watches continue. Events with the uid 0 are about the stream. Use it as a context manager, or
    call `close`, if you leave it earlier. One thread reads at a time, and any thread may call `close`.

    Raises (while iterating):
        GatewayError: The stream failed permanently, and with it all watches. Each later use raises it again.

    """

    def __init__(
        self,
        connections: Connections,
        credential: Credential,
        jobs: ManyJobs,
        deadline: Deadline,
        on_retry: calls.OnRetry | None,
    ) -> None:
        super().__init__(connections, credential, jobs, deadline, on_retry)
        self._jobs = jobs


class Requests:
    """The requests of one stream, which end when no job is pending. gRPC iterates over them in a thread."""

    def __init__(self, rules: ManyRules) -> None:
        self._rules = rules
        self._changed = threading.Condition()
        self._closed = False

    def stream(self) -> Self:
        """Return this object, which is the iterator."""
        return self

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
