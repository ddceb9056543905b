"""The jobs that the simulator keeps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from gateway.simulator.faults import FaultPlan
from gateway.simulator.parameters import Parameters
from gateway.simulator.representations import JobView
from gateway.simulator.script import JobScript, State, state_at
from gateway.simulator.submission import Submission

MAX_JOBS = 10_000
"""The most jobs that are kept. A new job replaces the oldest."""

_FIRST_UID = 1_000_001


@dataclass(kw_only=True)
class Job:
    """One job: its script, and whether it was cancelled.

    Attributes:
        uid: number of the job.
        owner: the token that sent it.
        parameters: the choices of the client.
        script: the course of the job, decided when it was created.
        made_at: creation time by the simulator's clock, in seconds.
        started: creation time in seconds since the epoch.
        faults: the faults of requests for this job.
        cancelled_at: seconds between `made_at` and the first cancellation, None if it was not cancelled.

    """

    uid: int
    owner: str = field(repr=False)
    parameters: Parameters
    script: JobScript
    made_at: float
    started: float
    faults: FaultPlan
    cancelled_at: float | None = None
    _shown: int = 0

    def state(self, now: float) -> State:
        """Return the job's state at `now`, a time of the simulator's clock."""
        return state_at(self.script, now - self.made_at, self.cancelled_at)

    def cancel(self, now: float) -> None:
        """Cancel the job at `now`. A second call changes nothing."""
        if self.cancelled_at is None:
            self.cancelled_at = now - self.made_at

    def show(self, now: float) -> dict[str, object]:
        """Return the job at `now` as a JSON object, in the shape that its parameters choose."""
        view = JobView(
            uid=self.uid,
            parameters=self.parameters,
            script=self.script,
            state=self.state(now),
            started=self.started,
        )
        shape = self.parameters.shape
        if shape == "mixed":
            shape = "second" if self._shown % 2 else "first"
        self._shown += 1
        return view.first_shape() if shape == "first" else view.second_shape()

    def encoded(self, now: float) -> bytes:
        """Return `show(now)` as JSON."""
        return msgspec.json.encode(self.show(now))


class Jobs:
    """All jobs by uid, at most `MAX_JOBS`."""

    def __init__(self, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._jobs: dict[int, Job] = {}
        self._uids = itertools.count(_FIRST_UID)

    def create(self, submission: Submission, owner: str, faults: FaultPlan) -> Job:
        """Create a job that starts now and belongs to the token `owner`."""
        job = Job(
            uid=next(self._uids),
            owner=owner,
            parameters=submission.parameters,
            script=submission.script(),
            made_at=self._clock(),
            started=self._wall_clock(),
            faults=faults,
        )
        if len(self._jobs) >= MAX_JOBS:
            del self._jobs[next(iter(self._jobs))]
        self._jobs[job.uid] = job
        return job

    def get(self, uid: str) -> Job | None:
        """Return the job with the uid in a path, or None if there is none."""
        return self._jobs.get(int(uid)) if uid.isascii() and uid.isdigit() and len(uid) < 20 else None

    def transfer(self, old: str, new: str) -> None:
        """Give the jobs of the token `old` to the token `new`."""
        for job in self._jobs.values():
            if job.owner == old:
                job.owner = new
