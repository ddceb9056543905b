"""The watched jobs of the status page: filtered, ordered, and cut into pages. Runs in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from gateway.auth.credential import fingerprint_of
from gateway.rpc.status import mapping_for
from gateway.server.status_page.model import Watched, WatchedJob
from gateway.server.status_page.query import NOT_READ

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gateway.rpc.codec.events import JobState
    from gateway.server.status_page.query import Query
    from gateway.watch import LoopSnapshot

ROWS_PER_PAGE = 200
MAX_CLIENTS = 5


class WatchedJobs:
    """The poll loops at one moment: `now` in seconds of their clock, `time` in seconds since the epoch."""

    def __init__(self, loops: Sequence[LoopSnapshot[JobState]], now: float, time: float) -> None:
        self._loops = loops
        self._now = now
        self._time = time

    def page(self, query: Query) -> Watched:
        """Return the rows of a query. A page beyond the last one is the last one."""
        matching = _in_order([each for each in self._loops if _matches(each, query)], query)
        pages = -(-len(matching) // ROWS_PER_PAGE) or 1
        page = min(query.page, pages)
        rows = matching[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE]
        return Watched(
            jobs=len(self._loops),
            watchers=sum(each.watchers for each in self._loops),
            failing=sum(each.failures > 0 for each in self._loops),
            matching=len(matching),
            page=page,
            pages=pages,
            rows=tuple(map(self._row, rows)),
        )

    def _row(self, loop: LoopSnapshot[JobState]) -> WatchedJob:
        clients = sorted(map(fingerprint_of, loop.clients))
        state, due = loop.state, loop.next_poll
        return WatchedJob(
            uid=_uid(loop),
            status="" if state is None else state.job.status.name,
            progress=_progress(loop),
            watchers=loop.watchers,
            age_seconds=self._now - loop.began,
            last_read_seconds=None if state is None else max(0.0, self._time - state.job.observe_time),
            next_read_seconds=None if due is None else max(0.0, due - self._now),
            failures=loop.failures,
            reason=_reason(loop),
            clients=tuple(clients[:MAX_CLIENTS]),
            more_clients=max(0, len(clients) - MAX_CLIENTS),
        )


def _matches(loop: LoopSnapshot[JobState], query: Query) -> bool:
    return (
        (not query.failing or loop.failures > 0)
        and (not query.status or _status(loop) == query.status)
        and (not query.uid or str(_uid(loop)) == query.uid)
        and (not query.client or any(fingerprint_of(each).startswith(query.client) for each in loop.clients))
    )


def _in_order(loops: list[LoopSnapshot[JobState]], query: Query) -> list[LoopSnapshot[JobState]]:
    """Return the loops in the order of a query, equal ones by uid, and those without a value last."""
    value = VALUES[query.column]
    loops.sort(key=_uid)
    known = [each for each in loops if value(each) is not None]
    known.sort(key=value, reverse=query.is_descending)
    return known + [each for each in loops if value(each) is None]


def _uid(loop: LoopSnapshot[JobState]) -> int:
    # The gateway's keys have the uid; to the hub, a job may be anything.
    return cast("int", loop.key.job)


def _status(loop: LoopSnapshot[JobState]) -> str:
    return NOT_READ if loop.state is None else loop.state.job.status.name


def _progress(loop: LoopSnapshot[JobState]) -> float | None:
    progress = None if loop.state is None else loop.state.job.progress
    return None if progress is None else progress.percentage


def _reason(loop: LoopSnapshot[JobState]) -> str:
    return "" if loop.last_failure is None else mapping_for(loop.last_failure).reason


def _client(loop: LoopSnapshot[JobState]) -> str | None:
    return min(map(fingerprint_of, loop.clients), default=None)


# Comparable values of the columns, None if a job has none. A job whose age is small began late.
VALUES: Mapping[str, Callable[[LoopSnapshot[JobState]], Any]] = {
    "uid": _uid,
    "status": _status,
    "progress": _progress,
    "watchers": lambda loop: loop.watchers,
    "age": lambda loop: -loop.began,
    "last_read": lambda loop: None if loop.state is None else -loop.state.job.observe_time,
    "next_read": lambda loop: loop.next_poll,
    "failures": lambda loop: loop.failures,
    "reason": lambda loop: _reason(loop) or None,
    "client": _client,
}
