"""The watch of a command, which gives up earlier than the rules of the client do (docs/clients/index.md)."""

import time
from collections.abc import Callable, Iterator

from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Client, GatewayError, Retry
from jobgateway_client.deadline import Deadline
from jobgateway_client.rules import is_broken, is_load_limit

PATIENCE_SECONDS = 300.0
"""The longest time of attempts after the first failure without any event."""

FIRST_PATIENCE_SECONDS = 15.0
"""The same while nothing shows that there is a gateway at the address."""


class Patience:
    """The patience of one command: how long it continues without any event.

    Attributes:
        knows_gateway: Whether anything shows that there is a gateway at the address.
    """

    def __init__(self) -> None:
        self._failing_since: float | None = None
        self.knows_gateway = self._reached = False

    def heard(self) -> None:
        """Note an event."""
        # The time of the caller, which may take minutes to show an event, does not count as failure.
        self._failing_since = None
        self.knows_gateway = True

    def lasts(self, error: GatewayError) -> bool:
        """Return whether to continue after an error, by the time since the first one."""
        self.knows_gateway |= error.from_gateway
        self._reached |= self.knows_gateway or error.may_have_arrived
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        return now - self._failing_since <= (PATIENCE_SECONDS if self.knows_gateway else FIRST_PATIENCE_SECONDS)

    def may_connect(self, error: GatewayError) -> bool:
        """Return False if no connection was possible at all: the address is probably wrong."""
        return self._reached or not is_broken(error)

    def limiting(self, show: Callable[[Retry], None]) -> Callable[[Retry], None]:
        """Return a callback of a watch of many jobs, which calls `show` as long as it is worth to continue."""

        def retrying(retry: Retry) -> None:
            if retry.failures == 1 and not retry.uid:
                # Something arrived since the last failure, if there was one.
                self._failing_since = None
            # If only one job is watched again, its stream works.
            if not retry.uid and not (self.lasts(retry.error) and self.may_connect(retry.error)):
                raise retry.error
            show(retry)

        return retrying


class PatientWatch:
    """The events of a job until it ends.

    `start` is the first request, `deadline` limits the whole watch, and `retrying` is called before each further
    attempt.
    """

    def __init__(
        self,
        client: Client,
        start: pb.RunJobRequest | pb.WatchJobRequest,
        deadline: Deadline,
        retrying: Callable[[Retry], None],
    ) -> None:
        self._may_run_again = isinstance(start, pb.RunJobRequest) and bool(start.request.request_id)
        self._retrying = retrying
        self._patience = Patience()
        if isinstance(start, pb.RunJobRequest):
            self._watch = client.run(start, timeout=deadline.left(), on_retry=self._resume)
        else:
            self._watch = client.watch(start, timeout=deadline.left(), on_retry=self._resume)

    @property
    def uid(self) -> int:
        """The job, or 0 if it is not known yet."""
        return self._watch.uid

    @property
    def began(self) -> bool:
        """True if the gateway responded at least once."""
        return self._patience.knows_gateway

    @property
    def replayed(self) -> bool:
        """True if the job was sent earlier with the same request id; known after the iteration."""
        return self._watch.replayed

    @property
    def result(self) -> bytes:
        """The result, verified if the iteration has ended."""
        return self._watch.result

    def __iter__(self) -> Iterator[pb.JobEvent]:
        """Yield each event as it arrives.

        Raises:
            GatewayError: A final error, or no gateway for too long.
            ResultDamagedError: The result does not match its SHA-256.

        """
        for event in self._watch:
            self._patience.heard()
            yield event

    def _resume(self, retry: Retry) -> None:
        if not self._continues(retry.error):
            raise retry.error
        self._retrying(retry)

    def _continues(self, error: GatewayError) -> bool:
        if not self._patience.lasts(error):
            return False
        if not self.uid:
            return self._may_run_again and not is_load_limit(error)
        return self._patience.may_connect(error)
