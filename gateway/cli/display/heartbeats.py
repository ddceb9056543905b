"""The heartbeats of a job that are news to the reader of a file or a pipe."""

import time
from collections.abc import Callable

from jobgateway.v1 import job_service_pb2 as pb

# The command asks for them this often, and so hears of an outage of the upstream within this time.
HEARTBEAT_SECONDS = 3
# The time after which a heartbeat is news although it says the same as the one before.
REPEAT_SECONDS = 15.0


class HeartbeatNews:
    """The choice of the heartbeats to tell: each change of a failure, and otherwise one per `REPEAT_SECONDS`.

    Args:
        clock: A monotonic clock in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failure = ""
        self._told = clock()

    def is_news(self, event: pb.JobEvent) -> bool:
        """Return False for a heartbeat that says too little to be told."""
        failure = event.heartbeat.last_failure
        now = self._clock()
        if event.HasField("heartbeat") and failure == self._failure and now - self._told < REPEAT_SECONDS:
            return False
        self._failure, self._told = failure, now
        return True
