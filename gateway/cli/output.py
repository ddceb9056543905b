"""The three contents of standard output of commands with one job."""

from pathlib import Path
from typing import Self

import typer
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli import display, json_output, stdio
from gateway.cli.options import Output, OutputOptions


class JsonDisplay:
    """A JSON object for each event but the last, which `conclude` prints with the result."""

    def event(self, event: pb.JobEvent) -> None:
        """Print an event. Pieces of the result are left out, because the last event has it in full."""
        if not event.job.done and not event.HasField("content_chunk"):
            json_output.show_message(event)

    def note(self, line: str) -> None:
        """Print a remark to standard error."""
        display.note(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""


class NameDisplay:
    """The uid of the job as soon as it is known, and the rest on standard error."""

    def __init__(self) -> None:
        self._screen = display.display()
        self._uid = 0

    def event(self, event: pb.JobEvent) -> None:
        """Print the uid once, and show the event."""
        if event.uid and not self._uid:
            self._uid = event.uid
            show_name(event.uid)
        self._screen.event(event)

    def note(self, line: str) -> None:
        """Show a remark."""
        self._screen.note(line)

    def __enter__(self) -> Self:
        self._screen.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._screen.__exit__()


def stream_display(output: Output) -> display.Display:
    """Return the display for the events of one job."""
    match output:
        case Output.JSON:
            return JsonDisplay()
        case Output.NAME:
            return NameDisplay()
        case Output.TEXT:
            return display.display()


def show_name(uid: int) -> None:
    """Print the uid of a job."""
    typer.echo(uid)


def conclude(
    message: pb.Job | pb.JobEvent, result: bytes | bytearray, shown: OutputOptions, uid: int, *, replayed: bool = False
) -> None:
    """Write the result of job `uid` to its file or to standard output, with JSON as a part of the last `message`.

    Raises:
        OutputLost: The file cannot be written.

    """
    saved = shown.save if shown.save and _saved(result, shown.save) else None
    if shown.output is Output.JSON:
        json_output.show_message(message, result, replayed=replayed, result_file=saved)
    elif shown.output is Output.TEXT and not shown.save:
        display.show_result(result, uid)


def _saved(result: bytes | bytearray, file: Path) -> bool:
    if not result:
        display.note(f"there is no result, so {file} was not written")
        return False
    try:
        file.write_bytes(result)
    except OSError as error:
        raise stdio.OutputLost(f"--save {file}", error) from error
    display.note(f"result: {len(result):,} bytes in {file}")
    return True
