"""Printing for several jobs: a line for each, and a total."""

import sys
from dataclasses import dataclass
from typing import Protocol, Self

from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError, WatchFailed
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gateway.cli import json_output
from gateway.cli.display import is_terminal, job_style, note, print_line, problem, succeeded
from gateway.cli.formatting import clean, event_line, job_line
from gateway.cli.options import Output
from gateway.cli.output import show_name

# The lines of a terminal that are not for jobs: the total, the number of other jobs, and the cursor.
_OTHER_LINES = 3


@dataclass
class Tally:
    """The numbers of jobs by their end; `failed` without the `unknown` ones, whose watch has failed."""

    jobs: int
    succeeded: int = 0
    failed: int = 0
    unknown: int = 0

    def ended(self, job: pb.Job) -> None:
        """Count a job that has ended."""
        if succeeded(job):
            self.succeeded += 1
        else:
            self.failed += 1

    @property
    def line(self) -> str:
        """The numbers in one line."""
        running = self.jobs - self.succeeded - self.failed - self.unknown
        numbers = {"running": running, "succeeded": self.succeeded, "failed": self.failed, "unknown": self.unknown}
        return f"{self.jobs} jobs: " + ", ".join(f"{number} {name}" for name, number in numbers.items() if number)


class ManyDisplay(Protocol):
    """A display for the events of several jobs."""

    tally: Tally

    def event(self, event: pb.JobEvent, result: bytes | bytearray = b"") -> None:
        """Show an event. `result` is that of a job that has ended, if it was requested."""

    def failed(self, failed: WatchFailed, lines: list[str]) -> None:
        """Show that the watch of a job has failed; `lines` have the error."""

    def note(self, line: str) -> None:
        """Show a remark."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, *_: object) -> None: ...


class JsonDisplay:
    """A JSON object for each event."""

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
        if isinstance(failed.error, GatewayError):
            json_output.show_error(failed.error, failed.uid)
        else:
            json_output.show_failure("DATA_LOSS", str(failed.error), uid=failed.uid)

    def note(self, line: str) -> None:
        """Print a remark to standard error."""
        note(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class LinesDisplay:
    """A line for each job when it has ended, and the total."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self.tally = tally
        self._console = console

    def event(self, event: pb.JobEvent, result: bytes | bytearray = b"") -> None:
        """Print a job that has ended, or a problem with reading one."""
        if event.job.done:
            self.tally.ended(event.job)
            print_line(self._console, job_line(event.job), job_style(event.job))
        elif event.heartbeat.last_failure and (line := event_line(event)):
            self.note(line)

    def failed(self, failed: WatchFailed, lines: list[str]) -> None:
        """Print the error to standard error."""
        self.tally.unknown += 1
        for line in lines:
            problem(line)

    def note(self, line: str) -> None:
        """Print a remark to standard error."""
        note(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Print the total, unless the command was interrupted or has failed."""
        if kind is None:
            print_line(self._console, self.tally.line)


class NameDisplay(LinesDisplay):
    """The uid of each job when it has ended, and the lines on standard error."""

    def __init__(self, tally: Tally) -> None:
        super().__init__(tally, Console(stderr=True))

    def event(self, event: pb.JobEvent, result: bytes | bytearray = b"") -> None:
        """Print the uid of a job that has ended."""
        if event.job.done:
            show_name(event.uid)
        super().event(event, result)


class MovingDisplay:
    """The lines of jobs that have ended, and below them those of the others and the total, which move."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self._running: dict[int, str] = {}
        self._console = Console()
        self._live = Live(get_renderable=self._lines, console=self._console, transient=True)

    def event(self, event: pb.JobEvent, result: bytes | bytearray = b"") -> None:
        """Print a job that has ended above the moving lines; otherwise change its line."""
        if event.job.done:
            self.tally.ended(event.job)
            self._running.pop(event.uid, None)
            print_line(self._console, job_line(event.job), job_style(event.job))
        elif event.uid and (line := event_line(event)):
            self._running[event.uid] = line

    def failed(self, failed: WatchFailed, lines: list[str]) -> None:
        """Print the error above the moving lines."""
        self.tally.unknown += 1
        self._running.pop(failed.uid, None)
        for line in lines:
            print_line(self._console, line, "red")

    def note(self, line: str) -> None:
        """Print a remark above the moving lines."""
        print_line(self._console, line, "dim")

    def _lines(self) -> Group:
        shown = list(self._running.values())[: max(0, self._console.height - _OTHER_LINES)]
        others = len(self._running) - len(shown)
        rows = [*shown, *([f"and {others} other jobs"] if others else []), self.tally.line]
        return Group(*(Text(clean(row), no_wrap=True, overflow="ellipsis") for row in rows))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Remove the moving lines, and print the total, unless the command was interrupted or has failed."""
        self._live.stop()
        if kind is None:
            print_line(self._console, self.tally.line)


def display(jobs: int, output: Output) -> ManyDisplay:
    """Return the display for a number of jobs on standard output: moving lines only on a terminal."""
    match output:
        case Output.JSON:
            return JsonDisplay(Tally(jobs))
        case Output.NAME:
            return NameDisplay(Tally(jobs))
        case Output.TEXT:
            return MovingDisplay(Tally(jobs)) if is_terminal(sys.stdout) else LinesDisplay(Tally(jobs), Console())
