"""The check for jobs that are shown as running for longer than they can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.errors import JobOverdue
from gateway.watch.sent_jobs import LONGEST_JOB_SECONDS, OVERDUE_MARGIN_SECONDS

if TYPE_CHECKING:
    from gateway.watch.sent_jobs import SentJob


class OverdueCheck:
    """The limit of one job: the timeout with which it was sent, or a day if this process did not send it."""

    __slots__ = ("_running_since", "_sent")

    def __init__(self, sent: SentJob | None) -> None:
        self._sent = sent
        self._running_since: float | None = None

    def restart(self) -> None:
        """Measure from the next state, because no present watcher has seen the earlier ones."""
        self._running_since = None

    def check(self, now: float) -> None:
        """Raise `JobOverdue` if the job, which runs at `now` (seconds of the clock), must have ended before."""
        if self._running_since is None:
            self._running_since = now
        since, timeout = self._running_since, LONGEST_JOB_SECONDS
        if self._sent is not None:
            since, timeout = self._sent.sent_at, self._sent.timeout
        if now < since + timeout + OVERDUE_MARGIN_SECONDS:
            return
        limit = "a day" if self._sent is None else f"its timeout of {timeout:.0f} s"
        raise JobOverdue(
            f"the upstream still shows the job as running after {now - since:.0f} s, longer than {limit} allows; call "
            "GetJob for its raw status, or watch it again"
        )
