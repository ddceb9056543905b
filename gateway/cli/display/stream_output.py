"""The three contents of standard output while a job is watched."""

import sys
from typing import Self

from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Retry

from gateway.cli.display.event_display import Display, LineDisplay, display
from gateway.cli.display.results import show_name
from gateway.cli.options.shared import Output
from gateway.cli.output import json_output
from gateway.cli.output.terminal import is_terminal


class JsonDisplay(LineDisplay):
    """A JSON object for each event but the last, which `conclude` prints with the result; the rest as lines."""

    def event(self, event: pb.JobEvent) -> None:
        """Print an event that is news. Pieces of the result are left out, because the last event has it in full."""
        if self._heartbeats.is_news(event) and not event.job.done and not event.HasField("content_chunk"):
            json_output.show_message(event)


class NameDisplay:
    """The uid of the job as soon as it is known, and the rest on standard error."""

    def __init__(self, screen: Display) -> None:
        self._screen = screen
        self._uid = 0

    def event(self, event: pb.JobEvent) -> None:
        """Print the uid once, and show the event."""
        if event.uid and not self._uid:
            self._uid = event.uid
            show_name(event.uid)
        self._screen.event(event)

    def replayed(self, uid: int) -> None:
        """Show that the job was sent earlier."""
        self._screen.replayed(uid)

    def retrying(self, retry: Retry) -> None:
        """Show that the stream broke."""
        self._screen.retrying(retry)

    def __enter__(self) -> Self:
        self._screen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._screen.__exit__()


def stream_display(output: Output, *, sent_here: bool = False) -> Display:
    """Return the display for the events of one job. `sent_here`: the command sends the job."""
    match output:
        case Output.JSON:
            return JsonDisplay()
        case Output.NAME:
            # Moving lines on the same terminal would mix with the uid.
            return NameDisplay(LineDisplay() if is_terminal(sys.stdout) else display(sent_here=sent_here))
        case Output.TEXT:
            return display(sent_here=sent_here)
