"""The watched jobs of the status page: filter, order, pages."""

from __future__ import annotations

import pytest

from gateway.errors import UpstreamConnectionLost, UpstreamError, UpstreamStatusError
from gateway.models import Job, JobStatus, Progress
from gateway.rpc.codec.events import JobState
from gateway.server.status_page.jobs import ROWS_PER_PAGE, WatchedJobs
from gateway.server.status_page.query import COLUMNS, Query
from gateway.watch import LoopSnapshot, WatchKey

NOW, TIME = 1_000.0, 1_700_000_000.0
ANN, BOB = bytes.fromhex("aa11" + 28 * "0"), bytes.fromhex("bb22" + 28 * "0")


def loop(
    uid: int,
    *,
    percentage: float | None = None,
    is_read: bool = True,
    failure: UpstreamError | None = None,
    failures: int = 0,
    clients: frozenset[bytes] = frozenset({ANN}),
    began: float = 900.0,
    next_poll: float | None = 1_002.0,
) -> LoopSnapshot[JobState]:
    progress = Progress("a message with a secret", "", percentage)
    job = Job(uid, JobStatus.RUNNING, "a status with a secret", done=False, observe_time=TIME - 3, progress=progress)
    return LoopSnapshot(
        WatchKey(b"poll key", uid),
        JobState(job) if is_read else None,
        began,
        next_poll,
        failures,
        failure,
        len(clients),
        clients,
    )


def uids(loops: list[LoopSnapshot[JobState]], **query: object) -> list[int]:
    rows = WatchedJobs(loops, NOW, TIME).page(Query(**query)).rows  # type: ignore[arg-type]
    return [each.uid for each in rows]


def test_a_row_has_figures_and_no_text_of_the_upstream() -> None:
    refusal = UpstreamStatusError(503, "the upstream is not available: a text with a secret")
    page = WatchedJobs([loop(7, percentage=42.5, failure=refusal, failures=2)], NOW, TIME).page(Query())
    (row,) = page.rows
    assert "secret" not in repr(page)
    assert (row.uid, row.status, row.progress, row.watchers) == (7, "RUNNING", 42.5, 1)
    assert (row.age_seconds, row.last_read_seconds, row.next_read_seconds) == (100.0, 3.0, 2.0)
    assert (row.failures, row.reason, row.clients) == (2, "UPSTREAM_UNAVAILABLE", ("aa110000",))


def test_a_job_that_was_never_read_has_no_status() -> None:
    (row,) = WatchedJobs([loop(7, is_read=False, next_poll=None)], NOW, TIME).page(Query()).rows
    assert (row.status, row.progress, row.last_read_seconds, row.next_read_seconds) == ("", None, None, None)


def test_a_row_names_five_clients() -> None:
    clients = frozenset(bytes([each]) * 16 for each in range(9))
    (row,) = WatchedJobs([loop(7, clients=clients)], NOW, TIME).page(Query()).rows
    assert (len(row.clients), row.more_clients) == (5, 4)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"uid": "2"}, [2]),
        ({"uid": "22"}, []),
        ({"uid": "two"}, []),
        ({"client": "bb"}, [2]),
        ({"client": "b"}, [2]),
        ({"client": "cc"}, []),
        ({"status": "NOT_READ"}, [3]),
        ({"status": "RUNNING"}, [1, 2]),
        ({"status": "SUCCESS"}, []),
        ({"failing": True}, [3]),
        ({"failing": True, "client": "bb"}, []),
    ],
)
def test_each_filter_leaves_the_jobs_that_match(query: dict[str, object], found: list[int]) -> None:
    loops = [
        loop(1),
        loop(2, clients=frozenset({ANN, BOB})),
        loop(3, is_read=False, failure=UpstreamConnectionLost("lost"), failures=1),
    ]
    assert uids(loops, sort="uid", **query) == found


def test_jobs_without_a_value_are_last_in_both_orders() -> None:
    loops = [loop(3, percentage=10), loop(1), loop(2, percentage=90), loop(4)]
    assert uids(loops, sort="progress") == [3, 2, 1, 4]
    assert uids(loops, sort="-progress") == [2, 3, 1, 4]


def test_equal_jobs_are_in_the_order_of_their_uids() -> None:
    loops = [loop(uid) for uid in (5, 3, 9, 1)]
    assert uids(loops, sort="watchers") == uids(loops, sort="-watchers") == [1, 3, 5, 9]


def test_the_age_is_shortest_for_the_last_that_came() -> None:
    loops = [loop(1, began=100), loop(2, began=990), loop(3, began=500)]
    assert uids(loops, sort="age") == [2, 3, 1]


@pytest.mark.parametrize("column", COLUMNS)
def test_every_column_can_be_an_order(column: str) -> None:
    loops = [loop(2), loop(1, is_read=False, failure=UpstreamConnectionLost("lost"), clients=frozenset())]
    assert sorted(uids(loops, sort=column)) == sorted(uids(loops, sort=f"-{column}")) == [1, 2]


def test_pages_have_200_jobs_and_the_last_one_the_rest() -> None:
    jobs = WatchedJobs([loop(uid) for uid in range(1, 452)], NOW, TIME)
    pages = [jobs.page(Query(sort="uid", page=page)) for page in (1, 2, 3, 4, 1_000_000)]
    assert [len(each.rows) for each in pages] == [ROWS_PER_PAGE, ROWS_PER_PAGE, 51, 51, 51]
    assert [each.page for each in pages] == [1, 2, 3, 3, 3]
    assert pages[1].rows[0].uid == 201
    assert {(each.jobs, each.matching, each.pages) for each in pages} == {(451, 451, 3)}


def test_without_jobs_there_is_one_empty_page() -> None:
    page = WatchedJobs([], NOW, TIME).page(Query(page=3))
    assert (page.rows, page.page, page.pages) == ((), 1, 1)
