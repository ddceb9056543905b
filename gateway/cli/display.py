"""Printing: events as they arrive, and the end.

Data goes to standard output, everything else to standard error. With `--output -`, only the result is data.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Protocol, Self

from google.protobuf import json_format
from google.protobuf.message import Message
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Retry
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cli.formatting import clean, duration, event_line, job_details, job_line, pretty_json
from gateway.cli.moving import SPINNER, lines, step_line, step_lines
from gateway.cli.patience import resumption
from gateway.cli.progress import JobProgress

# Moving lines show an outage of the upstream after at most this time, and a dead connection after three times as much.
HEARTBEAT_SECONDS = 3

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


def show_job(job: pb.Job, *, to_stderr: bool = False) -> None:
    """Print the state of a job in a line, and its details if it has ended."""
    console = Console(stderr=to_stderr)
    print_line(console, job_line(job), job_style(job))
    for line in job_details(job):
        print_line(console, line)


def show_json(message: Message, *, replayed: bool = False) -> None:
    """Print a message as one line of JSON, with `"replayed": true` if it repeats an earlier submission."""
    document = json_format.MessageToDict(message, preserving_proto_field_name=True)
    if replayed:
        document["replayed"] = True
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def replayed_line(uid: int) -> str:
    """Return the line that says that a job was sent earlier."""
    job = f"job {uid}" if uid else "the job"
    return f"{job} was sent earlier with this --request-id; no second job was created"


def show_response(job: pb.Job, *, as_json: bool, to_stderr: bool = False, replayed: bool = False) -> None:
    """Print the job in a response."""
    if replayed:
        note(replayed_line(job.uid))
    if as_json:
        show_json(job, replayed=replayed)
    else:
        show_job(job, to_stderr=to_stderr)


def show_result(result: bytes | bytearray, uid: int, *, end: bytes = b"\n") -> None:
    """Print the result: formatted on a terminal, unchanged into a pipe, followed by `end`."""
    if not result:
        return
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(result)
        sys.stdout.buffer.write(end)
        sys.stdout.buffer.flush()
    elif len(result) <= _LONGEST_SHOWN:
        text = Text(pretty_json(result))
        JSONHighlighter().highlight(text)
        Console().print(text, soft_wrap=True)
    else:
        note(f"the result has {len(result):,} bytes: jobgateway watch {uid} --output FILE")


class Display(Protocol):
    """A display for the events of a stream.

    Attributes:
        heartbeat_seconds: The longest silence of the stream that it can use, or None for the default.
    """

    heartbeat_seconds: int | None

    def event(self, event: pb.JobEvent, *, replayed: bool = False) -> None:
        """Show an event. `replayed` comes with the last one."""

    def retrying(self, retry: Retry) -> None:
        """Show that the stream broke, before the wait for the next attempt."""

    def note(self, line: str) -> None:
        """Show a remark."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class LineDisplay:
    """A display with a line per event."""

    heartbeat_seconds: int | None = None

    def __init__(self, *, as_json: bool, to_stderr: bool) -> None:
        self._as_json = as_json
        self._to_stderr = to_stderr
        self._tenths = 0

    def event(self, event: pb.JobEvent, *, replayed: bool = False) -> None:
        """Print an event."""
        if self._as_json:
            show_json(event, replayed=replayed)
        elif event.job.done:
            show_job(event.job, to_stderr=self._to_stderr)
        elif self._is_worth_a_line(event) and (line := event_line(event)):
            print_line(Console(stderr=self._to_stderr), line)

    def _is_worth_a_line(self, event: pb.JobEvent) -> bool:
        """Return False for a chunk of the result, unless it completes another tenth of it."""
        if not event.HasField("content_chunk"):
            return True
        chunk = event.content_chunk
        before = self._tenths
        self._tenths = 10 * (chunk.offset + len(chunk.data)) // max(1, chunk.content_size)
        return self._tenths != before

    def retrying(self, retry: Retry) -> None:
        """Print a line to standard error."""
        note(resumption(retry))

    def note(self, line: str) -> None:
        """Print a remark to standard error."""
        note(line)

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

    heartbeat_seconds: int | None = HEARTBEAT_SECONDS

    def __init__(self, console: Console, *, sent_here: bool) -> None:
        self._console = console
        self._progress = JobProgress(console.get_time(), sent_here=sent_here)
        self._live = Live(
            get_renderable=lambda: lines(self._progress, console),
            console=console,
            refresh_per_second=10,
            transient=True,
            # Data is never progress.
            redirect_stdout=False,
        )

    def event(self, event: pb.JobEvent, *, replayed: bool = False) -> None:
        """Change the line; print the end, and before it the steps."""
        now = self._console.get_time()
        ended = self._progress.event(event, now)
        if event.job.done:
            self._live.stop()
            self._print_steps()
            print_line(self._console, self._progress.end(event.job, now, replayed=replayed), job_style(event.job))
            for line in job_details(event.job):
                print_line(self._console, line)
        else:
            if ended and step_line(ended).cell_len > self._console.width:
                # Cut on the moving lines, so it is printed as a whole.
                self._print_steps()
            # Immediately, because an outage may follow.
            self.refresh()

    def retrying(self, retry: Retry) -> None:
        """Show the outage until the next event."""
        self._progress.outage.retrying(retry, self._console.get_time())
        self.refresh()

    def note(self, line: str) -> None:
        """Print a remark above the moving lines."""
        self._console.print(Text(clean(line), "dim"), soft_wrap=True)

    def refresh(self) -> None:
        """Draw now, and not only at the next of the usual moments."""
        self._live.refresh()

    def _print_steps(self) -> None:
        for line in step_lines(*self._progress.take_steps()):
            self._console.print(line)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def display(*, as_json: bool, to_stderr: bool, sent_here: bool = False) -> Display:
    """Return the display for standard output, or for standard error with `to_stderr`: moving lines only on a terminal.

    `sent_here`: the command sends the job.
    """
    if is_terminal(sys.stderr if to_stderr else sys.stdout) and not as_json:
        return ProgressDisplay(Console(stderr=to_stderr), sent_here=sent_here)
    return LineDisplay(as_json=as_json, to_stderr=to_stderr)


@contextmanager
def waiting(uid: int, console: Console) -> Iterator[None]:
    """Show on a terminal that a command waits for a job, and for how long."""
    if not is_terminal(console.file):
        yield
        return
    began = console.get_time()

    def line() -> Table:
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_row(SPINNER, f"waiting for job {uid} to end  {duration(console.get_time() - began, tenths=False)}")
        return row

    with Live(get_renderable=line, console=console, transient=True, redirect_stdout=False) as live:
        live.refresh()
        yield


def is_terminal(stream: IO[str]) -> bool:
    """Return whether a stream can show moving lines."""
    # Rich's own test also follows FORCE_COLOR, but a bar is useless in a pipe.
    return stream.isatty() and not Console().is_dumb_terminal


def print_line(console: Console, line: str, style: str = "") -> None:
    """Print one line of any text."""
    # A Text has no markup. It is not wrapped, so that a line stays a line.
    console.print(Text(clean(line), style), soft_wrap=True)
