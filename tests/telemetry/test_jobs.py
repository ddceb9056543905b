"""`ObservedJobs`: which ends count, and how long the jobs took."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from gateway.models import Job, JobStatus
from gateway.telemetry import jobs as jobs_module
from gateway.telemetry.jobs import ObservedJobs
from gateway.telemetry.metrics import END_STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = 1_800_000_000.0
SUCCESS = JobStatus.SUCCESS


class Counted:
    """Keeps what is counted."""

    def __init__(self) -> None:
        self.ends: list[tuple[JobStatus, float | None]] = []
        self.dropped: list[str] = []

    def unknown_status(self) -> None:
        """Ignore it."""

    def job_ended(self, status: JobStatus, seconds: float | None) -> None:
        """Keep an end."""
        self.ends.append((status, seconds))

    def fields_dropped(self, names: Iterable[str]) -> None:
        """Keep the names."""
        self.dropped += names


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.fixture
def observed(counted: Counted) -> ObservedJobs:
    return ObservedJobs(counted)


def job(at: float, status: JobStatus = JobStatus.RUNNING, *, uid: int = 42, **more: Any) -> Job:
    """Return a job that was read `at` seconds after the begin of the test."""
    if "completed" in more:
        more["complete_time"] = datetime.fromtimestamp(NOW + more.pop("completed"), UTC)
    return Job(uid, status, "", status is not JobStatus.RUNNING, NOW + at, **more)


def test_a_job_sent_here_begins_with_its_submission(observed: ObservedJobs, counted: Counted) -> None:
    observed.job_sent(job(1), NOW)
    observed.job_read(job(5))
    observed.job_read(job(9, SUCCESS))
    assert counted.ends == [(SUCCESS, 9.0)]


def test_a_job_sent_elsewhere_begins_with_the_first_read(observed: ObservedJobs, counted: Counted) -> None:
    observed.job_read(job(5))
    observed.job_read(job(9, JobStatus.ERROR))
    assert counted.ends == [(JobStatus.ERROR, 4.0)]


def test_a_job_that_ended_in_its_post_has_a_duration(observed: ObservedJobs, counted: Counted) -> None:
    observed.job_sent(job(2, SUCCESS, uid=0), NOW)
    observed.job_sent(job(5, SUCCESS, uid=0), NOW + 4)
    assert counted.ends == [(SUCCESS, 2.0), (SUCCESS, 1.0)]


@pytest.mark.parametrize(("completed", "seconds"), [(7, 7.0), (-1, 9.0), (10, 9.0), (-3600, 9.0)])
def test_the_time_of_the_upstream_counts_if_it_fits(
    observed: ObservedJobs, counted: Counted, completed: float, seconds: float
) -> None:
    observed.job_sent(job(0), NOW)
    observed.job_read(job(9, SUCCESS, completed=completed))
    assert counted.ends == [(SUCCESS, seconds)]


def test_a_job_never_seen_running_has_no_duration(observed: ObservedJobs, counted: Counted) -> None:
    observed.job_read(job(0, SUCCESS))
    observed.job_read(job(0, SUCCESS, uid=43, completed=-599))
    assert counted.ends == [(SUCCESS, None), (SUCCESS, None)]


def test_a_job_that_ended_long_ago_does_not_count(observed: ObservedJobs, counted: Counted) -> None:
    observed.job_read(job(0, JobStatus.ERROR, completed=-601))
    assert counted.ends == []


def test_each_end_counts_once(observed: ObservedJobs, counted: Counted) -> None:
    observed.job_read(job(0))
    for at in range(1, 4):
        observed.job_read(job(at, SUCCESS))
    assert counted.ends == [(SUCCESS, 1.0)]
    # The upstream was reset, and counts from one again.
    observed.job_sent(job(5), NOW + 5)
    observed.job_read(job(6, SUCCESS))
    assert counted.ends == [(SUCCESS, 1.0), (SUCCESS, 1.0)]


def test_a_clock_that_was_set_back_gives_no_negative_time(observed: ObservedJobs, counted: Counted) -> None:
    observed.job_sent(job(0), NOW)
    observed.job_read(job(-60, SUCCESS))
    assert counted.ends == [(SUCCESS, 0.0)]


def test_memory_is_bounded(observed: ObservedJobs, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "MAX_RUNNING", 2)
    monkeypatch.setattr(jobs_module, "MAX_ENDED", 2)
    for uid in (1, 2, 3):
        observed.job_read(job(0, uid=uid))
    for uid in (1, 2, 3):
        observed.job_read(job(1, SUCCESS, uid=uid))
    # The first begin was dropped, and then the first end.
    assert counted.ends == [(SUCCESS, None), (SUCCESS, 1.0), (SUCCESS, 1.0)]
    observed.job_read(job(2, SUCCESS, uid=3))
    observed.job_read(job(2, SUCCESS, uid=1))
    assert len(counted.ends) == 4


def test_the_begin_of_a_job_that_is_read_again_is_kept(
    observed: ObservedJobs, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "MAX_RUNNING", 2)
    for uid in range(1, 6):
        observed.job_read(job(uid, uid=42))
        observed.job_read(job(uid, uid=uid))
    observed.job_read(job(9, SUCCESS, uid=42))
    assert counted.ends == [(SUCCESS, 8.0)]


def test_dropped_fields_count_with_each_response(observed: ObservedJobs, counted: Counted) -> None:
    observed.job_sent(job(0, dropped=("kind",)), NOW)
    observed.job_read(job(1, dropped=("kind", "percentage")))
    assert counted.dropped == ["kind", "kind", "percentage"]


def test_each_end_has_a_label() -> None:
    assert END_STATUSES.keys() == set(JobStatus) - {JobStatus.RUNNING}
    assert [status for status, label in END_STATUSES.items() if label == "other"] == [JobStatus.UNSPECIFIED]
