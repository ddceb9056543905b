"""The watch of many jobs on one stream, without input and output: its calls, and its events."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client import calls
from jobgateway_client.many_rules import LoginNeeded, ManyRules, WatchFailed
from jobgateway_client.rules import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from jobgateway_client.deadline import Deadline
    from jobgateway_client.errors import GatewayError

Item: TypeAlias = pb.JobEvent | WatchFailed


class Requests(Protocol):
    """The requests of one stream, which end when no job is pending."""

    def stream(self) -> Any:
        """Return the iterator for gRPC, which yields each request when it is due."""

    def changing(self) -> AbstractContextManager[None]:
        """Change the rules while the stream is open."""

    def close(self) -> None:
        """End the requests."""


class ManyJobs:
    """Jobs that are watched over as many streams as necessary.

    Attributes:
        rules: The decisions.

    """

    def __init__(
        self,
        starts: Iterable[pb.WatchJobRequest],
        deadline: Deadline,
        on_retry: calls.OnRetry | None,
        requests: Callable[[ManyRules], Requests],
    ) -> None:
        self.rules = ManyRules(list(starts))
        self._deadline = deadline
        self._on_retry = on_retry
        self._new_requests = requests
        self._requests = requests(self.rules)

    def call(self, stub: calls.Stub, token: str | None) -> tuple[Any, calls.OnClose]:
        """Make the next call; return it, and a function to call when it is closed."""
        self.rules.opened(time.monotonic())
        requests = self._requests = self._new_requests(self.rules)
        call = stub.WatchJobs(
            requests.stream(), metadata=calls.metadata(token, None), timeout=self._deadline.patience()
        )
        return call, requests.close

    def take(self, event: pb.JobEvent) -> Item | LoginNeeded | None:
        """Note an event; return the item for it, None if there is none, or the need for a fresh token."""
        with self._requests.changing():
            outcome = self.rules.take(event, time.monotonic())
        return outcome if isinstance(outcome, LoginNeeded) else self._item(outcome)

    def without_login(self, needed: LoginNeeded) -> Item | None:
        """Return the item for a job whose token was rejected, if there is no other token."""
        with self._requests.changing():
            outcome = self.rules.without_login(needed, time.monotonic())
        return self._item(outcome)

    def ended(self, error: GatewayError, *, replayed: bool) -> None:
        """Do nothing: no job is sent here."""

    def resume(self, error: GatewayError, *, fresh_token: bool) -> Retry | None:
        """Return the next attempt, or None if the error is final. `fresh_token`: one was needed, and there is one."""
        return self.rules.resume(error, time.monotonic(), fresh_token=fresh_token)

    def _item(self, outcome: Item | Retry | None) -> Item | None:
        if isinstance(outcome, Retry):
            if self._on_retry is not None:
                self._on_retry(outcome)
            return None
        return outcome


class ManyJobsState:
    """The state of a watch of many jobs."""

    _jobs: ManyJobs

    @property
    def pending(self) -> int:
        """The number of jobs that have not ended, and whose watch has not failed."""
        return self._jobs.rules.pending

    def result(self, uid: int) -> bytes:
        """Return the JSON of the result of a job as far as it has arrived, in whichever form it arrived.

        It is complete and verified with the end of the job, and released with the next event.
        """
        return self._jobs.rules.result(uid)
