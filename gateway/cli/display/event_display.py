"""The events of a job on standard error: as they arrive, and the end."""

import sys
import threading
from typing import Protocol, Self

from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Retry
from rich.console import Console, RenderableType
from rich.live import Live

from gateway.cli.display.heartbeats import HeartbeatNews
from gateway.cli.display.job_lines import event_line, job_details, job_style, resumption, show_job
from gateway.cli.display.moving import is_cut, lines, print_line, print_steps, start, step_line, waiting_lines
from gateway.cli.display.progress import JobProgress
from gateway.cli.output.terminal import is_terminal, note, replayed_line


class Display(Protocol):
    """A display for the events of a stream."""

    def event(self, event: pb.JobEvent) -> None:
        """Show an event."""

    def replayed(self, uid: int) -> None:
        """Show that a job was sent earlier. This comes before its last event."""

    def retrying(self, retry: Retry) -> None:
        """Show that the stream broke, before the wait for the next attempt."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class LineDisplay:
    """A display with a line per event, without the heartbeats that say nothing new."""

    def __init__(self) -> None:
        self._tenths = 0
        self._heartbeats = HeartbeatNews()

    def event(self, event: pb.JobEvent) -> None:
        """Print an event."""
        if event.job.done:
            show_job(event.job)
        elif self._heartbeats.is_news(event) and self._is_worth_a_line(event) and (line := event_line(event)):
            note(line)

    def _is_worth_a_line(self, event: pb.JobEvent) -> bool:
        """Return False for a chunk of the result, unless it completes another tenth of it."""
        if not event.HasField("content_chunk"):
            return True
        chunk = event.content_chunk
        before = self._tenths
        self._tenths = 10 * (chunk.offset + len(chunk.data)) // max(1, chunk.content_size)
        return self._tenths != before

    def replayed(self, uid: int) -> None:
        """Print a line to standard error."""
        note(replayed_line(uid))

    def retrying(self, retry: Retry) -> None:
        """Print a line to standard error."""
        note(resumption(retry))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class ProgressDisplay:
    """The latest steps of a job and a line that moves, and at the end the last state of the job.

    Args:
        console: The terminal. Its clock is the one of all durations.
        sent_here: Whether the command sends the job.
    """

    def __init__(self, console: Console, *, sent_here: bool) -> None:
        self._console = console
        self._progress = JobProgress(console.get_time(), sent_here=sent_here)
        # The thread of Live draws between events. It holds its own lock then, so nothing is drawn under this one.
        self._lock = threading.Lock()
        self._live = Live(
            get_renderable=self._lines,
            console=console,
            refresh_per_second=10,
            transient=True,
            # Data is never progress.
            redirect_stdout=False,
        )

    def event(self, event: pb.JobEvent) -> None:
        """Change the line; print the end, and before it the steps."""
        now = self._console.get_time()
        with self._lock:
            ended = self._progress.event(event, now)
        if event.job.done:
            self._live.stop()
            self._print_steps()
            print_line(self._console, self._progress.end(event.job, now), job_style(event.job))
            for line in job_details(event.job):
                print_line(self._console, line)
        else:
            if ended and is_cut(step_line(ended), self._console):
                # Cut on the moving lines, so it is printed as a whole.
                self._print_steps()
            # Immediately, because an outage may follow.
            self.refresh()

    def replayed(self, uid: int) -> None:
        """Print the remark, and claim no exact duration."""
        self._progress.replayed()
        # Above the moving lines.
        print_line(self._console, replayed_line(uid), "dim")

    def retrying(self, retry: Retry) -> None:
        """Show the outage until the next event."""
        with self._lock:
            self._progress.outage.retrying(retry, self._console.get_time())
        self.refresh()

    def refresh(self) -> None:
        """Draw now, and not only at the next of the usual moments."""
        self._live.refresh()

    def _lines(self) -> RenderableType:
        with self._lock:
            return lines(self._progress, self._console)

    def _print_steps(self) -> None:
        with self._lock:
            steps = self._progress.take_steps()
        print_steps(self._console, *steps)

    def __enter__(self) -> Self:
        start(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class WaitLineDisplay(LineDisplay):
    """A display without the progress: a line for each problem, and one for the end."""

    def _is_worth_a_line(self, event: pb.JobEvent) -> bool:
        return bool(event.heartbeat.last_failure)


class WaitDisplay(ProgressDisplay):
    """A line that moves while a command waits for a job, with an outage, and at the end the last state of the job.

    Args:
        console: The terminal. Its clock is the one of all durations.
        uid: The job.
    """

    def __init__(self, console: Console, uid: int) -> None:
        self._uid, self._began = uid, console.get_time()
        super().__init__(console, sent_here=False)

    def _lines(self) -> RenderableType:
        with self._lock:
            return waiting_lines(self._uid, self._progress.outage, self._began, self._console)

    def _print_steps(self) -> None:
        pass


def wait_display(uid: int) -> Display:
    """Return the display of a wait for standard error."""
    return WaitDisplay(Console(stderr=True), uid) if is_terminal(sys.stderr) else WaitLineDisplay()


def display(*, sent_here: bool = False) -> Display:
    """Return the display for standard error: moving only on a terminal. `sent_here`: the command sends the job."""
    if is_terminal(sys.stderr):
        return ProgressDisplay(Console(stderr=True), sent_here=sent_here)
    return LineDisplay()
