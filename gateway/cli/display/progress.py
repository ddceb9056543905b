"""The progress of one job over time, as a display needs it: elapsed time, end in sight, steps and outages.

Nothing is drawn here, and `now` is always a monotonic time in seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli.display.job_lines import end_word, percentage, status_word
from gateway.cli.output.formatting import clean, duration

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from jobgateway_client import Retry

RECENT_STEPS = 4
# Below this progress, in percent, an estimate is a guess.
_LEAST_PROGRESS = 1.0
_LONGEST_CAUSE = 200

_PASSIVE = (pb.JOB_STATUS_STOPPED, pb.JOB_STATUS_CANCELLED)


@dataclass(frozen=True)
class Step:
    """A message that a job has reported, and how long it was the latest one, in seconds."""

    message: str
    seconds: float


class Outage:
    """An outage of the gateway or the upstream, from its first sign until the next sign of life."""

    def __init__(self) -> None:
        self._what = self._kind = ""
        self._since = 0.0
        self._next_try: float | None = None

    def __bool__(self) -> bool:
        return bool(self._what)

    def retrying(self, retry: Retry, now: float) -> None:
        """Note that a stream broke, and when the next attempt begins."""
        error = retry.error
        what = clean(error.message[:_LONGEST_CAUSE]) if error.from_gateway else ""
        self._note("gateway", what or "gateway unreachable", now, now + retry.wait)

    def heard(self, event: pb.JobEvent, now: float) -> None:
        """Note an event: the gateway is there, and says whether the upstream fails."""
        failure = clean(event.heartbeat.last_failure)
        if failure:
            self._note("upstream", f"upstream failing ({failure})", now, None)
        else:
            self._what = self._kind = ""

    def line(self, now: float) -> str:
        """Return a line about it, or an empty text if there is none."""
        if not self._what:
            return ""
        line = f"{self._what} for {duration(now - self._since, tenths=False)}"
        if self._next_try is None:
            return f"{line}; still trying"
        wait = self._next_try - now
        return f"{line}, {f'next try in {duration(wait, tenths=False)}' if wait > 0 else 'trying now'}"

    def _note(self, kind: str, what: str, now: float, next_try: float | None) -> None:
        # An outage of the gateway says nothing about the upstream.
        self._since = self._since if kind == self._kind else now
        self._kind, self._what, self._next_try = kind, what, next_try


class JobProgress:
    """The progress of one job.

    Args:
        now: The time of the command's start.
        sent_here: Whether the command sends the job, so that the first state is its start. The upstream has no start
            time of a job.

    Attributes:
        uid: The job, or 0 before its first event.
        percent: The latest percentage, or None if the job reported none.
        steps: The latest steps that have ended, oldest first.
        earlier_steps: The number of steps before these.
        has_state: Whether a state of the running job has arrived.
        outage: The current outage, if there is one.
    """

    def __init__(self, now: float, *, sent_here: bool) -> None:
        self._exact = sent_here
        self.uid = 0
        self._word = "sending the job" if sent_here else "waiting for the first state"
        self._message = ""
        self.percent: float | None = None
        self.steps: deque[Step] = deque(maxlen=RECENT_STEPS)
        self.earlier_steps = 0
        # The start of the job, as a monotonic time and in seconds since the epoch.
        self._start = now
        self._start_epoch: float | None = None
        self.has_state = False
        self._step_since = now
        self._base: tuple[float, float] | None = None
        self._estimated_end: float | None = None
        self.outage = Outage()

    def event(self, event: pb.JobEvent, now: float) -> Step | None:
        """Take an event; return the step that it ends, if it ends one."""
        self.uid = event.uid or event.job.uid or self.uid
        self.outage.heard(event, now)
        if event.HasField("content_chunk"):
            chunk = event.content_chunk
            self.percent = 100.0 * (chunk.offset + len(chunk.data)) / max(1, chunk.content_size)
            self._estimated_end = None
            return self._next_step("receiving the result", now)
        if event.HasField("job"):
            return self._state(event.job, now)
        return None

    @property
    def message(self) -> str:
        """The latest message, or the word for the state."""
        return self._message or self._word

    def take_steps(self) -> tuple[int, list[Step]]:
        """Return the number of earlier steps and the latest ones, and forget both."""
        taken = self.earlier_steps, list(self.steps)
        self.earlier_steps = 0
        self.steps.clear()
        return taken

    def elapsed(self, now: float) -> float:
        """Return the time since the start of the job, in seconds."""
        return max(0.0, now - self._start)

    def remaining(self, now: float) -> float | None:
        """Return the estimated time until the end in seconds, or None if there is no estimate."""
        if self._estimated_end is None or self.outage or self._estimated_end <= now:
            return None
        return self._estimated_end - now

    def replayed(self) -> None:
        """Note that the job was sent earlier, so that its start is not known."""
        self._exact = False

    def end(self, job: pb.Job, now: float) -> str:
        """Return the line about the end of the job."""
        ended = f"was {end_word(job)}" if job.status in _PASSIVE else end_word(job)
        took = self.took(job, now)
        after = "in" if job.status == pb.JOB_STATUS_SUCCESS else "after"
        time = f" {after} {'' if self._exact else 'at least '}{duration(took)}" if took is not None else ""
        kind = f" ({clean(job.error.type)})" if job.error.type else ""
        message = f": {clean(job.error.message)}" if job.error.message else ""
        return f"job {job.uid} {ended}{time}{kind}{message}"

    def took(self, job: pb.Job, now: float) -> float | None:
        """Return how long a job that has ended took at least, in seconds, or None if nothing is known of its start."""
        if not self.has_state:
            # A job that had ended before its first state may have run at any time.
            return self.elapsed(now) if self._exact else None
        observed = _epoch(job.observe_time) if job.HasField("observe_time") else None
        if observed is None or self._start_epoch is None:
            return self.elapsed(now)
        completed = _epoch(job.complete_time)
        # The clocks of the upstream and the gateway may differ.
        return max(0.0, (completed if self._start_epoch <= completed <= observed else observed) - self._start_epoch)

    def _state(self, job: pb.Job, now: float) -> Step | None:
        reported = self._reported(job, now)
        if not self.has_state and not job.done:
            self.has_state = True
            self._start = self._step_since = now if self._exact else reported
            if job.HasField("observe_time"):
                self._start_epoch = _epoch(job.observe_time) - (now - self._start)
            self._base = (self._start, 0.0) if self._exact else None
        self._estimate(percentage(job), reported)
        if job.done:
            return self._next_step("", now)
        step = self._next_step(clean(job.progress.message), reported)
        self._word = status_word(job)
        return step

    def _next_step(self, message: str, since: float) -> Step | None:
        if message == self._message:
            return None
        ended = Step(self._message, max(0.0, since - self._step_since)) if self._message else None
        self._message, self._step_since = message, since
        if ended:
            self.earlier_steps += len(self.steps) == RECENT_STEPS
            self.steps.append(ended)
        return ended

    def _reported(self, job: pb.Job, now: float) -> float:
        """Return when the job reported its state: the upstream's time if the clocks allow it, otherwise `now`."""
        if not (job.progress.HasField("report_time") and job.HasField("observe_time")):
            return now
        age = _epoch(job.observe_time) - _epoch(job.progress.report_time)
        return now - age if age >= 0 else now

    def _estimate(self, percent: float | None, at: float) -> None:
        if percent is None or self._base is None or percent < (self.percent or 0.0):
            # The first percentage of a watch, or one that went backwards: measure from here.
            self._base = (at, percent) if percent is not None else self._base
            self._estimated_end = None
        elif percent != self.percent:
            since, before = self._base
            done = percent - before
            self._estimated_end = at + (100 - percent) * (at - since) / done if done >= _LEAST_PROGRESS else None
        self.percent = percent


def _epoch(moment: Timestamp) -> float:
    return moment.seconds + moment.nanos / 1e9
