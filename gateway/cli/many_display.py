"""Printing for several jobs: a line for each and a total, or a table."""

import sys
from collections.abc import Sequence
from typing import Protocol, Self

from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError, Retry, WatchFailed
from rich.console import Console

from gateway.cli.display import is_terminal, job_style, note, print_line, problem, show_json
from gateway.cli.formatting import event_line, job_line
from gateway.cli.job_table import TableDisplay
from gateway.cli.patience import resumption
from gateway.cli.tally import Tally

# The code of gRPC for a result that was damaged on its way.
_DATA_LOSS = 15


class ManyDisplay(Protocol):
    """A display for the events of several jobs.

    Attributes:
        tally: The numbers of jobs.
        heartbeat_seconds: The longest silence of the stream that it can use, or None for the default.
    """

    tally: Tally
    heartbeat_seconds: int | None

    def retrying(self, retry: Retry) -> None:
        """Show that the stream broke, or the watch of the job `error.uid`, before the wait for the next attempt."""

    def event(self, event: pb.JobEvent) -> None:
        """Show an event."""

    def failed(self, failed: WatchFailed, lines: list[str]) -> None:
        """Show that the watch of a job has failed; `lines` have the error."""

    def note(self, line: str) -> None:
        """Show a remark."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: object, *_: object) -> None: ...


class JsonDisplay:
    """A JSON object for each event."""

    heartbeat_seconds: int | None = None

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def event(self, event: pb.JobEvent) -> None:
        """Print an event."""
        if event.job.done:
            self.tally.ended(event.job)
        show_json(event)

    def failed(self, failed: WatchFailed, lines: list[str]) -> None:
        """Print the failure as the event that the gateway would send."""
        self.tally.unknown += 1
        show_json(_failure(failed))

    def retrying(self, retry: Retry) -> None:
        """Print a line to standard error."""
        note(_resumption(retry))

    def note(self, line: str) -> None:
        """Print a remark to standard error."""
        note(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class LinesDisplay:
    """A line for each job when it has ended, and the total."""

    heartbeat_seconds: int | None = None

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def event(self, event: pb.JobEvent) -> None:
        """Print a job that has ended, or a problem with reading one."""
        if event.job.done:
            self.tally.ended(event.job)
            print_line(Console(), job_line(event.job), job_style(event.job))
        elif event.heartbeat.last_failure and (line := event_line(event)):
            self.note(line)

    def failed(self, failed: WatchFailed, lines: list[str]) -> None:
        """Print the error to standard error."""
        self.tally.unknown += 1
        for line in lines:
            problem(line)

    def retrying(self, retry: Retry) -> None:
        """Print a line to standard error."""
        note(_resumption(retry))

    def note(self, line: str) -> None:
        """Print a remark to standard error."""
        note(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Print the total, unless the command was interrupted or has failed."""
        if kind is None:
            print_line(Console(), self.tally.line)


def display(uids: Sequence[int], *, as_json: bool) -> ManyDisplay:
    """Return the display for jobs on standard output: a table that moves only on a terminal."""
    if as_json:
        return JsonDisplay(Tally(len(uids)))
    if is_terminal(sys.stdout):
        return TableDisplay(Console(), uids)
    return LinesDisplay(Tally(len(uids)))


def _resumption(retry: Retry) -> str:
    uid = retry.error.uid
    return f"job {uid}: {resumption(retry)}" if uid else resumption(retry)


def _failure(failed: WatchFailed) -> pb.JobEvent:
    error = failed.error
    if not isinstance(error, GatewayError):
        return pb.JobEvent(uid=failed.uid, failure=pb.WatchFailure(code=_DATA_LOSS, message=str(error)))
    failure = pb.WatchFailure(
        code=error.code.value[0], reason=error.reason, message=error.message, metadata=error.metadata
    )
    if error.retry_delay is not None:
        failure.retry_delay.FromNanoseconds(int(error.retry_delay * 1e9))
    return pb.JobEvent(uid=failed.uid, failure=failure)
