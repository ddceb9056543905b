"""The table of several jobs that moves on a terminal."""

from __future__ import annotations

import threading
from itertools import chain, islice
from typing import TYPE_CHECKING, Self

from jobgateway.v1 import job_service_pb2 as pb
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gateway.cli.display.event_display import HEARTBEAT_SECONDS
from gateway.cli.display.job_lines import END_WORDS, end_word, succeeded
from gateway.cli.display.moving import beside_echo, print_line, start
from gateway.cli.display.progress import JobProgress, Outage
from gateway.cli.display.tally import Tally
from gateway.cli.output.formatting import clean, duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jobgateway_client import Retry, WatchFailed
    from rich.console import RenderableType

# The lines of the terminal that are not for jobs: the head, the other jobs, the total, an outage, and the cursor.
OTHER_LINES = 5
# The share of the lines for jobs that did not succeed, so that those that run are in sight too.
FAILED_SHARE = 0.5
BAR = 12
# On a narrower terminal, the message needs the place of the bar.
NARROWEST_WITH_BAR = 70

RUNNING, SUCCEEDED, UNKNOWN = "running", "succeeded", "unknown"
# In this order in the line about the other jobs.
STATES = (RUNNING, *dict.fromkeys(END_WORDS.values()), UNKNOWN)
STYLES = {RUNNING: "", SUCCEEDED: "green"}


class _Row:
    """One job of the table."""

    def __init__(self, now: float) -> None:
        self.progress = JobProgress(now, sent_here=False)
        self.state = RUNNING
        self.end = ""
        self.took: float | None = None


class TableDisplay:
    """A table that moves, with the jobs that failed or run first, and at the end the errors and the total.

    Args:
        console: The terminal. Its clock is the one of all durations.
        uids: The jobs.
    """

    heartbeat_seconds: int | None = HEARTBEAT_SECONDS

    def __init__(self, console: Console, uids: Sequence[int]) -> None:
        self.tally = Tally(len(uids))
        self._console = console
        self._began = console.get_time()
        self._rows = {uid: _Row(self._began) for uid in uids}
        # In the order in which they came, so that no refresh sorts thousands of jobs.
        self._by_state: dict[str, dict[int, None]] = {state: {} for state in STATES}
        self._by_state[RUNNING] = dict.fromkeys(uids)
        self._errors: list[str] = []
        self._outage = Outage()
        # The thread of Live draws between events. It holds its own lock then, so nothing is drawn under this one.
        self._lock = threading.Lock()
        self._live = Live(get_renderable=self._lines, console=console, refresh_per_second=4, redirect_stdout=False)

    def event(self, event: pb.JobEvent, result: bytes | bytearray = b"") -> None:
        """Change the line of a job."""
        now = self._console.get_time()
        with self._lock:
            # Without the upstream's failure, which is the one of a job.
            self._outage.heard(pb.JobEvent(), now)
            if row := self._rows.get(event.uid):
                row.progress.event(event, now)
                if event.job.done:
                    self._ended(event.uid, event.job, row, now)

    def failed(self, failed: WatchFailed, lines: list[str]) -> None:
        """Change the line of a job whose watch has failed."""
        with self._lock:
            self.tally.unknown += 1
            self._errors += lines
            self._move(failed.uid, UNKNOWN, lines[0])

    def retrying(self, retry: Retry) -> None:
        """Show the outage of the stream, or of the watch of one job."""
        row = self._rows.get(retry.uid)
        with self._lock:
            (row.progress.outage if row else self._outage).retrying(retry, self._console.get_time())
        self.refresh()

    def refresh(self) -> None:
        """Draw now, and not only at the next of the usual moments."""
        self._live.refresh()

    def _ended(self, uid: int, job: pb.Job, row: _Row, now: float) -> None:
        self.tally.ended(job)
        row.took = row.progress.took(job, now)
        if not succeeded(job):
            self._errors.append(row.progress.end(job, now))
        self._move(uid, end_word(job), clean(job.error.message))

    def _move(self, uid: int, state: str, message: str) -> None:
        row = self._rows[uid]
        self._by_state[row.state].pop(uid, None)
        row.state, row.end = state, message
        # A later gateway may name another end.
        self._by_state.setdefault(state, {})[uid] = None

    def _lines(self) -> RenderableType:
        with self._lock:
            return self._draw()

    def _draw(self) -> RenderableType:
        room = max(1, self._console.height - OTHER_LINES)
        shown = list(self._rows) if len(self._rows) <= room else list(islice(self._most_important(room), room))
        now = self._console.get_time()
        rows: list[RenderableType] = [self._table(shown, now)]
        if others := self._others(shown):
            rows.append(Text(others, "dim"))
        rows.append(Text(f"{self.tally.line}  {duration(now - self._began, tenths=False)}", "bold"))
        if outage := self._outage.line(now):
            rows.append(Text(outage, "yellow", no_wrap=True, overflow="ellipsis"))
        return beside_echo(Group(*rows), self._console)

    def _most_important(self, room: int) -> Iterator[int]:
        bad = (uids for state, uids in self._by_state.items() if state not in (RUNNING, SUCCEEDED))
        problems = list(chain.from_iterable(map(reversed, bad)))
        running = list(self._by_state[RUNNING])
        first = problems[: max(int(room * FAILED_SHARE), room - len(running))]
        return chain(first, running, list(reversed(self._by_state[SUCCEEDED])))

    def _others(self, shown: Sequence[int]) -> str:
        numbers = {state: len(uids) for state, uids in self._by_state.items()}
        for uid in shown:
            numbers[self._rows[uid].state] -= 1
        others = ", ".join(f"{number} {state}" for state, number in numbers.items() if number > 0)
        return f"and others: {others}" if others else ""

    def _table(self, uids: Sequence[int], now: float) -> Table:
        has_bar = self._console.width >= NARROWEST_WITH_BAR
        table = Table(box=None, expand=True, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        table.add_column("job", justify="right", no_wrap=True)
        table.add_column("status", no_wrap=True, min_width=len(SUCCEEDED))
        if has_bar:
            table.add_column("progress", width=BAR)
        table.add_column("", width=len("100%"), justify="right")
        table.add_column("time", no_wrap=True, justify="right", min_width=len("12 m 34 s"))
        table.add_column("message", ratio=1, no_wrap=True, overflow="ellipsis")
        for uid in uids:
            table.add_row(*self._cells(uid, now, has_bar=has_bar))
        return table

    def _cells(self, uid: int, now: float, *, has_bar: bool) -> Iterator[RenderableType]:
        row = self._rows[uid]
        progress = row.progress
        runs = row.state == RUNNING
        percent = progress.percent if runs else None
        yield str(uid)
        yield Text(row.state, STYLES.get(row.state, "red"))
        if has_bar:
            yield "" if percent is None else ProgressBar(100, percent, BAR, complete_style="cyan")
        yield "" if percent is None else f"{percent:.0f}%"
        running_for = progress.elapsed(now) if progress.has_state else None
        took = running_for if runs else row.took
        yield "" if took is None else duration(took, tenths=False)
        outage = progress.outage.line(now) if runs else ""
        yield Text(outage, "yellow") if outage else Text(progress.message if runs else row.end)

    def __enter__(self) -> Self:
        start(self._live)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Leave the table in its last state, and print the errors as a whole."""
        self._live.stop()
        for line in self._errors:
            print_line(self._console, line, "red")
