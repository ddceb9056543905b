"""The table of several jobs on a terminal, with stepped time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

import grpc
import pytest
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError, Retry, WatchFailed

from gateway.cli.display.job_table import TableDisplay
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence


def state(uid: int, message: str = "", percent: float | None = None) -> pb.JobEvent:
    progress = pb.Progress(message=message, percentage=percent)
    return pb.JobEvent(uid=uid, job=pb.Job(uid=uid, status=pb.JOB_STATUS_RUNNING, progress=progress))


def end(uid: int, message: str = "") -> pb.JobEvent:
    status = pb.JOB_STATUS_ERROR if message else pb.JOB_STATUS_SUCCESS
    return pb.JobEvent(uid=uid, job=pb.Job(uid=uid, status=status, done=True, error=pb.JobError(message=message)))


class Shown:
    """A table on a terminal, whose time and events a test steps."""

    def __init__(self, uids: Sequence[int], columns: int = 80, rows: int = 24) -> None:
        self.now = 100.0
        self.terminal = Terminal(columns, rows)
        self.console = self.terminal.console(lambda: self.now)
        self.table = TableDisplay(self.console, uids)

    def lines(self) -> list[str]:
        self.table.refresh()
        return self.terminal.lines()

    def __enter__(self) -> Self:
        self.terminal.__enter__()
        self.table.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.table.__exit__(None)
        self.console.file.close()
        self.terminal.__exit__()


TABLES = {
    50: [
        "job  status                time  message",
        "  1  running     20%       12 s  mixing the con…",
        "  2  succeeded             12 s",
        "  3  failed                12 s  the wall is to…",
        "  4  running                     waiting for th…",
    ],
    80: [
        "job  status     progress                 time  message",
        "  1  running    ━━╺━━━━━━━━━   20%       12 s  mixing the concrete",
        "  2  succeeded                           12 s",
        "  3  failed                              12 s  the wall is too thin",
        "  4  running                                   waiting for the first state",
    ],
}
TABLES[120] = TABLES[80]


@pytest.mark.parametrize("columns", TABLES)
def test_a_table_at_a_width(columns: int) -> None:
    with Shown([1, 2, 3, 4], columns) as shown:
        for each in (state(1, "mixing the concrete", 20), state(2, "checking", 55), state(3)):
            shown.table.event(each)
        shown.now += 12
        shown.table.event(end(2))
        shown.table.event(end(3, "the wall is too thin"))
        total = "4 jobs: 2 running, 1 succeeded, 1 failed  12 s"
        assert shown.lines() == [*TABLES[columns], total]
        shown.table.__exit__(None)
        error = "job 3 failed after at least 12 s: the wall is too thin"
        lines = shown.terminal.lines()
        assert lines[: len(TABLES[columns]) + 1] == [*TABLES[columns], total]
        assert " ".join(lines[len(TABLES[columns]) + 1 :]) == error


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (pb.JOB_STATUS_CANCELLED, "cancelled"),
        (pb.JOB_STATUS_STOPPED, "stopped"),
        (pb.JOB_STATUS_TIMEOUT, "timed out"),
        (pb.JOB_STATUS_EXPIRED, "expired"),
        (pb.JOB_STATUS_UNSPECIFIED, "ended (done)"),
    ],
)
def test_each_end_has_its_word(status: pb.JobStatus.ValueType, word: str) -> None:
    with Shown([1, 2]) as shown:
        shown.table.event(pb.JobEvent(uid=2, job=pb.Job(uid=2, status=status, status_text="done", done=True)))
        assert f"  2  {word}" in shown.lines()[2]
        assert shown.lines()[-1] == f"2 jobs: 1 running, 1 {word}  0 s"


def test_a_low_terminal_shows_problems_and_running_jobs_first() -> None:
    with Shown(range(1, 101), rows=11) as shown:
        for uid in range(1, 81):
            shown.table.event(end(uid, "broken" if uid % 10 == 0 else ""))
        *table, others, total = (" ".join(line.split()) for line in shown.lines())
        failed = [f"{uid} failed broken" for uid in (80, 70, 60)]
        running = [f"{uid} running waiting for the first state" for uid in (81, 82, 83)]
        assert table == ["job status progress time message", *failed, *running]
        assert others == "and others: 17 running, 72 succeeded, 5 failed"
        assert total == "100 jobs: 20 running, 72 succeeded, 8 failed 0 s"


def test_outages_of_the_stream_and_of_a_job_are_told_in_place() -> None:
    with Shown([1, 2], 120) as shown:
        lost = GatewayError(grpc.StatusCode.UNAVAILABLE, "connection reset")
        shown.table.retrying(Retry(lost, wait=5.0, new_connection=True))
        shown.now += 2
        assert shown.lines()[-1] == "gateway unreachable for 2 s, next try in 3 s"
        unreadable = pb.Heartbeat(consecutive_failures=1, last_failure="UPSTREAM_TIMEOUT")
        shown.table.event(pb.JobEvent(uid=2, heartbeat=unreadable))
        shown.now += 3
        assert shown.lines()[-1] == "2 jobs: 2 running  5 s"
        assert shown.lines()[2].endswith("upstream failing (UPSTREAM_TIMEOUT) for 3 s; still trying")
        shown.table.event(state(2, "checking"))
        assert shown.lines()[2].endswith("checking")
        shown.table.retrying(Retry(lost, wait=5.0, new_connection=False, uid=2))
        assert shown.lines()[2].endswith("gateway unreachable for 0 s, next try in 5 s")


def test_a_watch_that_fails_is_a_line_and_an_error() -> None:
    with Shown([1, 2]) as shown:
        error = GatewayError(grpc.StatusCode.NOT_FOUND, "gone", reason="UPSTREAM_NOT_FOUND")
        shown.table.failed(WatchFailed(1, error), ["job 1: gone; check the ids", "  a field"])
        shown.table.event(end(2))
        assert shown.lines()[1].split()[:2] == ["1", "unknown"]
        shown.table.__exit__(None)
        assert shown.terminal.lines()[-3:] == [
            "2 jobs: 1 succeeded, 1 unknown  0 s",
            "job 1: gone; check the ids",
            "  a field",
        ]


def test_no_event_changes_the_table_while_it_is_drawn() -> None:
    with Shown([1]) as shown:
        shown.table.event(state(1, "mixing"))
        other = threading.Thread(target=lambda: shown.table.event(end(1)))

        def clock() -> float:
            if threading.current_thread() is threading.main_thread() and not other.ident:
                other.start()
                # Time enough to change the table, if nothing held the event back.
                other.join(0.1)
            return shown.now

        shown.lines()
        shown.console.get_time = clock
        before = len(shown.terminal.raw())
        shown.table.refresh()
        other.join()
        assert "mixing" in shown.terminal.raw()[before:].decode()
