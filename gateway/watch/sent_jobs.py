"""Memory of the jobs that this process sent: when, and with which timeout."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Hashable

    from gateway.clock import Clock

# The longest timeout of a job, and the default of the upstream.
LONGEST_JOB_SECONDS = 86_400.0
# The time for which a job may be shown as running after its timeout, because it may have waited for a runner first.
OVERDUE_MARGIN_SECONDS = 300.0
# Longer than any timeout, so that a watch that starts late still detects an overdue job.
KEEP_JOB_SECONDS = 2 * LONGEST_JOB_SECONDS
# More than a process watches by default. An entry takes about 300 bytes.
MAX_JOBS = 32_768


class SentJob(msgspec.Struct, frozen=True):
    """A job that was sent at `sent_at` (seconds of the clock) to run for at most `timeout` seconds."""

    sent_at: float
    timeout: float


class SentJobs(Protocol):
    """Remembers sent jobs by their `WatchKey.job`. Its methods must be quick, and must not raise."""

    def remember(self, name: Hashable, timeout: float | None) -> None:
        """Remember that a job was sent just now. `timeout` is in seconds, None if it was not set."""

    def find(self, name: Hashable) -> SentJob | None:
        """Return a job, regardless of the credential that sent it, or None if it is not known."""


class InMemorySentJobs:
    """The jobs that this process sent in the last two days: at most 32,768, the oldest are dropped first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._jobs: OrderedDict[Hashable, SentJob] = OrderedDict()

    def remember(self, name: Hashable, timeout: float | None) -> None:
        """Remember that a job was sent just now, as in `SentJobs`."""
        self._jobs[name] = SentJob(self._clock.monotonic(), LONGEST_JOB_SECONDS if timeout is None else timeout)
        self._jobs.move_to_end(name)
        # Two for each addition, so that expired entries cannot pile up.
        for _ in range(2):
            oldest = next(iter(self._jobs))
            if len(self._jobs) <= MAX_JOBS and not self._is_old(self._jobs[oldest]):
                break
            del self._jobs[oldest]

    def find(self, name: Hashable) -> SentJob | None:
        """Return a job, as in `SentJobs`."""
        job = self._jobs.get(name)
        return None if job is None or self._is_old(job) else job

    @property
    def count(self) -> int:
        """The number of jobs in memory, including some that have expired."""
        return len(self._jobs)

    def _is_old(self, job: SentJob) -> bool:
        return self._clock.monotonic() > job.sent_at + KEEP_JOB_SECONDS
