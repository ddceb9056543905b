"""Memory of the jobs that were sent here: when, and with which timeout."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Hashable

    from gateway.clock import Clock

# The longest timeout that a job can have, and the one that the upstream takes if none is set.
LONGEST_JOB_SECONDS = 86_400.0
# How long after its timeout a job may still be shown as running: it may have waited for a runner first.
OVERDUE_MARGIN_SECONDS = 300.0
# How long a sent job is remembered: also a watch that begins when the job is overdue already must say so.
KEEP_JOB_SECONDS = 2 * LONGEST_JOB_SECONDS
# More than a process watches by default; an entry takes about 300 bytes.
MAX_JOBS = 32_768


class WatchKey(NamedTuple):
    """A job to read: `name`, under the credential whose poll key is `credential`."""

    credential: bytes
    name: Hashable


class SentJob(msgspec.Struct, frozen=True):
    """A job that was sent at `sent_at` (seconds of the clock) to run for at most `timeout` seconds."""

    sent_at: float
    timeout: float


class SentJobs(Protocol):
    """Remembers sent jobs by their `WatchKey.name`. Must be quick, and must not raise."""

    def remember(self, name: Hashable, timeout: float | None) -> None:
        """Remember that a job was sent just now. `timeout` is in seconds, None if it was not set."""

    def find(self, name: Hashable) -> SentJob | None:
        """Return what is known of a job, whichever credential sent it, or None."""


class InMemorySentJobs:
    """The jobs that this process sent in the last two days: at most 32,768, the oldest are dropped first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jobs: OrderedDict[Hashable, SentJob] = OrderedDict()

    def remember(self, name: Hashable, timeout: float | None) -> None:
        """See `SentJobs`."""
        self._jobs[name] = SentJob(self._clock.monotonic(), LONGEST_JOB_SECONDS if timeout is None else timeout)
        self._jobs.move_to_end(name)
        # Two for each that comes, so that expired entries cannot pile up.
        for _ in range(2):
            oldest = next(iter(self._jobs))
            if len(self._jobs) <= MAX_JOBS and not self._is_old(self._jobs[oldest]):
                break
            del self._jobs[oldest]

    def find(self, name: Hashable) -> SentJob | None:
        """See `SentJobs`."""
        job = self._jobs.get(name)
        return None if job is None or self._is_old(job) else job

    def _is_old(self, job: SentJob) -> bool:
        return self._clock.monotonic() > job.sent_at + KEEP_JOB_SECONDS

    def __len__(self) -> int:
        return len(self._jobs)
