"""Count the jobs in the upstream's responses: their ends with the durations, and what was unexpected in them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol, TypeVar

from gateway.telemetry.unknown_statuses import UnknownStatuses

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.models import Job, JobStatus

T = TypeVar("T")

# More than the jobs that a process can watch. The job that was not read for longest is dropped, so a watched one never
# is. An entry takes 200 bytes.
MAX_RUNNING = 131_072
# Ends that are remembered, so that each counts once, however often it is read.
MAX_ENDED = 32_768
# A job that ended longer ago, and was never seen running, is history.
OLD_SECONDS = 600.0


class JobCounters(Protocol):
    """The counters of jobs."""

    def unknown_status(self) -> None:
        """Count a job with an unknown status."""

    def job_ended(self, status: JobStatus, seconds: float | None) -> None:
        """Count the end of a job that took `seconds`, or None if its begin is not known."""

    def fields_dropped(self, names: Iterable[str]) -> None:
        """Count the malformed fields of a job."""


class ObservedJobs:
    """An `upstream.JobObserver` that counts each end once per process.

    A job begins with its submission, or with the first read of this process that shows it running. It ends at its
    `complete_time` if that is between the begin and the read that shows the end, otherwise at that read.
    """

    def __init__(self, counters: JobCounters) -> None:
        self._counters = counters
        self._unknown_statuses = UnknownStatuses(counters.unknown_status)
        # When each job began, by uid, in seconds since the epoch.
        self._running: OrderedDict[int, float] = OrderedDict()
        self._ended: OrderedDict[int, None] = OrderedDict()

    def unknown_status(self, word: str) -> None:
        """See `upstream.JobObserver`."""
        self._unknown_statuses.unknown_status(word)

    def job_sent(self, job: Job, began: float) -> None:
        """See `upstream.JobObserver`."""
        # A new job, even if the upstream has used its uid before.
        self._ended.pop(job.uid, None)
        _remember(self._running, job.uid, began, MAX_RUNNING)
        self.job_read(job)

    def job_read(self, job: Job) -> None:
        """See `upstream.JobObserver`."""
        if job.dropped:
            self._counters.fields_dropped(job.dropped)
        if job.done:
            self._end(job)
        elif job.uid in self._running:
            self._running.move_to_end(job.uid)
        else:
            _remember(self._running, job.uid, job.observe_time, MAX_RUNNING)

    def _end(self, job: Job) -> None:
        if job.uid in self._ended:
            return
        began = self._running.pop(job.uid, None)
        ended = job.observe_time
        completed = ended if job.complete_time is None else job.complete_time.timestamp()
        if began is None and completed < ended - OLD_SECONDS:
            return
        # A job without a uid cannot be read again.
        if job.uid:
            _remember(self._ended, job.uid, None, MAX_ENDED)
        if began is None:
            self._counters.job_ended(job.status, None)
            return
        if began <= completed <= ended:
            ended = completed
        # The wall clock may have been set back.
        self._counters.job_ended(job.status, max(0.0, ended - began))


def _remember(entries: OrderedDict[int, T], uid: int, value: T, most: int) -> None:
    entries[uid] = value
    if len(entries) > most:
        entries.popitem(last=False)
