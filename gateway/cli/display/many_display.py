"""Printing for several jobs: a line for each and a total, or a table."""

import sys
from collections.abc import Sequence
from typing import IO, Protocol, Self

from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Retry, WatchFailed
from rich.console import Console

from gateway.cli.display.job_lines import event_line, job_line, job_style, resumption
from gateway.cli.display.job_table import TableDisplay
from gateway.cli.display.results import show_name
from gateway.cli.display.tally import Tally
from gateway.cli.options.shared import Output
from gateway.cli.output import json_output
from gateway.cli.output.terminal import is_terminal, note, problem, write_line


class ManyDisplay(Protocol):
    """A display for the events of several jobs.

    Attributes:
        tally: The numbers of jobs.
        heartbeat_seconds: The longest silence of the stream that it can use, or None for the default.
    """

    tally: Tally
    heartbeat_seconds: int | None

    def retrying(self, retry: Retry) -> None:
        """Show that the stream broke, or the watch of the job `retry.uid`, before the wait for the next attempt."""

    def event(self, event: pb.JobEvent, result: bytes | bytearray = b"") -> None:
        """Show an event. `result` is that of a job that has ended, if it was requested."""

    def failed(self, failed: WatchFailed, lines: list[str]) -> None:
        """Show that the watch of a job has failed; `lines` have the error."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, *_: object) -> None: ...


class JsonDisplay:
    """A JSON object for each event."""

    heartbeat_seconds: int | None = None

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def event(self, event: pb.JobEvent, result: bytes | bytearray = b"") -> None:
        """Print an event. Pieces of a result are left out, because the last event has it in full."""
        if event.job.done:
            self.tally.ended(event.job)
        if not event.HasField("content_chunk"):
            json_output.show_message(event, result)

    def failed(self, failed: WatchFailed, lines: list[str]) -> None:
        """Print the error as an object, and to standard error."""
        self.tally.unknown += 1
        for line in lines:
            problem(line)
        json_output.show_error(failed.error, failed.uid)

    def retrying(self, retry: Retry) -> None:
        """Print a line to standard error."""
        note(_resumption(retry))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class LinesDisplay:
    """A line for each job when it has ended, and the total."""

    heartbeat_seconds: int | None = None

    def __init__(self, tally: Tally, stream: IO[str]) -> None:
        self.tally = tally
        self._stream = stream

    def event(self, event: pb.JobEvent, result: bytes | bytearray = b"") -> None:
        """Print a job that has ended, or a problem with reading one."""
        if event.job.done:
            self.tally.ended(event.job)
            write_line(self._stream, job_line(event.job), job_style(event.job))
        elif event.heartbeat.last_failure and (line := event_line(event)):
            note(line)

    def failed(self, failed: WatchFailed, lines: list[str]) -> None:
        """Print the error to standard error."""
        self.tally.unknown += 1
        for line in lines:
            problem(line)

    def retrying(self, retry: Retry) -> None:
        """Print a line to standard error."""
        note(_resumption(retry))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Print the total, unless the command was interrupted or has failed."""
        if kind is None:
            write_line(self._stream, self.tally.line)


class NameDisplay(LinesDisplay):
    """The uid of each job when it has ended, and the lines on standard error."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally, sys.stderr)

    def event(self, event: pb.JobEvent, result: bytes | bytearray = b"") -> None:
        """Print the uid of a job that has ended."""
        if event.job.done:
            show_name(event.uid)
        super().event(event, result)


def display(uids: Sequence[int], output: Output) -> ManyDisplay:
    """Return the display for jobs on standard output: a table that moves only on a terminal."""
    tally = Tally(len(uids))
    match output:
        case Output.JSON:
            return JsonDisplay(tally)
        case Output.NAME:
            return NameDisplay(tally)
        case Output.TEXT:
            return TableDisplay(Console(), uids) if is_terminal(sys.stdout) else LinesDisplay(tally, sys.stdout)


def _resumption(retry: Retry) -> str:
    return f"job {retry.uid}: {resumption(retry)}" if retry.uid else resumption(retry)
