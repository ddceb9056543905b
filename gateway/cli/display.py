"""Printing: events as they arrive, and the end.

The result goes to standard output, everything else to standard error.
"""

import sys
from typing import Protocol, Self, TextIO

from jobgateway.v1 import job_service_pb2 as pb
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from gateway.cli.formatting import clean, event_line, job_details, job_line, percentage, pretty_json, status_word

_LONGEST_SHOWN = 64 * 1024


def note(line: str) -> None:
    """Print a remark to standard error."""
    print_line(Console(stderr=True), line)


def problem(line: str) -> None:
    """Print a problem to standard error."""
    print_line(Console(stderr=True), line, "red")


def job_style(job: pb.Job) -> str:
    """Return the colour of a job."""
    return "" if not job.done else "green" if succeeded(job) else "red"


def succeeded(job: pb.Job) -> bool:
    """Return True if a job ended with success."""
    return job.done and job.status == pb.JOB_STATUS_SUCCESS


def show_job(job: pb.Job) -> None:
    """Print the state of a job in a line, and its details if it has ended."""
    console = Console(stderr=True)
    print_line(console, job_line(job), job_style(job))
    for line in job_details(job):
        print_line(console, line)


def replayed_line(uid: int) -> str:
    """Return the line that says that a job was sent earlier."""
    job = f"job {uid}" if uid else "the job"
    return f"{job} was sent earlier with this --request-id; no second job was created"


def fits_terminal(size: int) -> bool:
    """Return False if standard output is a terminal, and a result of `size` bytes is too large for it."""
    return size <= _LONGEST_SHOWN or not sys.stdout.isatty()


def show_result(result: bytes | bytearray, uid: int) -> None:
    """Print the result: formatted on a terminal, otherwise its own bytes and nothing else."""
    if not result:
        return
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(result)
        sys.stdout.buffer.flush()
    elif fits_terminal(len(result)):
        text = Text(pretty_json(result))
        JSONHighlighter().highlight(text)
        Console().print(text, soft_wrap=True)
    else:
        note(f"the result has {len(result):,} bytes: jobgateway watch {uid} --save FILE")


class Display(Protocol):
    """A display for the events of a stream."""

    def event(self, event: pb.JobEvent) -> None:
        """Show an event."""

    def note(self, line: str) -> None:
        """Show a remark."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class LineDisplay:
    """A display with a line per event."""

    def event(self, event: pb.JobEvent) -> None:
        """Print an event."""
        if event.job.done:
            show_job(event.job)
        elif line := event_line(event):
            print_line(Console(stderr=True), line)

    def note(self, line: str) -> None:
        """Print a remark to standard error."""
        note(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class ProgressDisplay:
    """A progress bar, and at the end the last state of the job."""

    def __init__(self) -> None:
        message = TextColumn("{task.description}", markup=False, table_column=Column(ratio=1, no_wrap=True))
        self._progress = Progress(
            SpinnerColumn(),
            message,
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._task = self._progress.add_task("waiting for the first state", total=None)

    def event(self, event: pb.JobEvent) -> None:
        """Move the bar."""
        if event.job.done:
            self._progress.stop()
            show_job(event.job)
        elif event.HasField("job"):
            job = event.job
            percent = percentage(job)
            message = clean(job.progress.message) or status_word(job)
            self._update(f"job {job.uid} {message}", percent, None if percent is None else 100)
        elif event.HasField("content_chunk"):
            chunk = event.content_chunk
            received = chunk.offset + len(chunk.data)
            self._update(f"job {event.uid} receiving the result", received, chunk.content_size)
        elif event.heartbeat.last_failure and (line := event_line(event)):
            self.note(line)

    def note(self, line: str) -> None:
        """Print a remark above the bar."""
        self._progress.console.print(Text(clean(line), "dim"), soft_wrap=True)

    def _update(self, description: str, completed: float | None, total: float | None) -> None:
        self._progress.update(self._task, description=description, completed=completed or 0, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def display() -> Display:
    """Return the display for standard error: a bar only on a terminal."""
    return ProgressDisplay() if is_terminal(sys.stderr) else LineDisplay()


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream can show moving lines."""
    # Rich's own test also follows FORCE_COLOR, but a bar is useless in a pipe.
    return stream.isatty() and not Console().is_dumb_terminal


def print_line(console: Console, line: str, style: str = "") -> None:
    """Print one line of any text."""
    # A Text has no markup. It is not wrapped, so that a line stays a line.
    console.print(Text(clean(line), style), soft_wrap=True)
