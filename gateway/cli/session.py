"""The frame of each client command: its connection, and the exit code for each way to fail."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Client, GatewayError
from jobgateway_client.deadline import Deadline

from gateway.cli import display, json_output, stdio
from gateway.cli.credentials import TlsUnusable, TokenUnusable, tls, token_source
from gateway.cli.error_messages import error_lines
from gateway.cli.exit_codes import (
    BROKEN_PIPE,
    INTERRUPTED,
    JOB_FAILED,
    NOT_PERMITTED,
    OUTPUT_LOST,
    TIME_PASSED,
    USAGE,
)
from gateway.cli.failure_codes import failure_code
from gateway.cli.formatting import clean
from gateway.cli.options import DEFAULT_TARGET, STANDARD_STREAM, CallOptions, ConnectionOptions, Output


@dataclass
class Session:
    """The state of a client command.

    Attributes:
        client: The client of the gateway.
        target: The address of the gateway.
        deadline: The time limit of the command.
        output: The content of standard output.
        connection: The options with which another command connects in the same way.
        sent: The request for a job, if one may have been sent.
        uid: The job of that request, or 0 if it is not known.

    """

    client: Client
    target: str
    deadline: Deadline
    output: Output = Output.TEXT
    connection: tuple[str, ...] = ()
    sent: pb.SendJobRequest | None = None
    uid: int = 0

    def watch_command(self, *uids: int) -> str:
        """Return the command that watches jobs over the same connection."""
        command = ["jobgateway", "watch", *map(str, uids)]
        if self.target != DEFAULT_TARGET:
            command += ["--target", self.target]
        return shlex.join([*command, *self.connection])

    def whereabouts(self) -> str:
        """Return how to find the job that was sent, or an empty text if none was."""
        if self.sent is None:
            return ""
        if self.uid:
            return f"job {self.uid} was sent; watch it: {self.watch_command(self.uid)}"
        unknown = "the job has no number yet, and may or may not run"
        if self.sent.request_id:
            return f"{unknown}: the same command finds it by its --request-id {clean(self.sent.request_id)}"
        return f"{unknown}: look in the VIKTOR app before you send it again"

    def show_error(self, error: GatewayError) -> None:
        """Print an error with its invalid fields."""
        for line in error_lines(error, self.target):
            display.problem(line)
        if self.output is Output.JSON:
            json_output.show_error(error, self.uid)

    def show_failure(self, code: str, line: str) -> None:
        """Print a failure that no call reported."""
        display.problem(line)
        if self.output is Output.JSON:
            json_output.show_failure(code, line, uid=self.uid)

    def show_interrupt(self, line: str) -> None:
        """Print that the command was interrupted, and the rest of the `line`."""
        display.note(line)
        if self.output is Output.JSON:
            json_output.show_failure("INTERRUPTED", line, uid=self.uid)


@contextmanager
def session(call: CallOptions, output: Output, save: Path | None = None) -> Iterator[Session]:
    """Connect, and leave the process with an exit code if something fails within or before."""
    if save:
        _check_save(save, output)
    try:
        secured, token = tls(call), token_source(call)
    except TlsUnusable as error:
        usage_error(str(error), output)
    except TokenUnusable as error:
        usage_error(str(error), output, NOT_PERMITTED)
    # A person decides about a retry of a single call.
    with Client(call.target, token=token, tls=secured, attempts=1) as client:
        current = Session(client, call.target, Deadline(call.deadline), output, connection_words(call))
        try:
            with stdio.interruptible():
                yield from _checked(current)
        except GatewayError as error:
            current.show_error(error)
            raise typer.Exit(failure_code(error)) from error
        except KeyboardInterrupt as error:
            current.show_interrupt("; ".join(filter(None, ("interrupted", current.whereabouts()))))
            raise typer.Exit(INTERRUPTED) from error
        except stdio.OutputLost as error:
            code = output_lost(error, current.whereabouts())
            if output is Output.JSON:
                # It may be another output that was lost.
                json_output.show_failure("OUTPUT_LOST", str(error), uid=current.uid)
            raise typer.Exit(code) from error


def _checked(current: Session) -> Iterator[Session]:
    """Yield `current`; raise `OutputLost` if the command succeeded, or showed a job, and its output is incomplete."""
    try:
        yield current
    except typer.Exit as left:
        if left.exit_code in (JOB_FAILED, TIME_PASSED):
            stdio.check()
        raise
    stdio.check()


def output_lost(error: stdio.OutputLost, whereabouts: str = "") -> int:
    """Print that the output was lost, and how to find the job that was sent. Return the exit code."""
    # Leaving a pipe early, as `head` does, is no error.
    if whereabouts or not error.reader_gone:
        display.problem("; ".join(filter(None, (str(error), whereabouts))))
    return BROKEN_PIPE if error.reader_gone else OUTPUT_LOST


def connection_words(call: ConnectionOptions) -> tuple[str, ...]:
    """Return the options with which another command connects in the same way."""
    files = {
        "--token-file": call.token_file,
        "--ca-file": call.ca_file,
        "--cert-file": call.cert_file,
        "--key-file": call.key_file,
    }
    named = (word for option, file in files.items() if file for word in (option, str(file)))
    return (*(["--tls"] if call.tls else []), *named)


def usage_error(line: str, output: Output = Output.TEXT, code: int = USAGE) -> NoReturn:
    """Print the problem of the command line or a setting, and leave."""
    display.problem(line)
    if output is Output.JSON:
        json_output.show_failure("USAGE" if code == USAGE else "UNAUTHENTICATED", line)
    raise typer.Exit(code)


def _check_save(file: Path, output: Output) -> None:
    if file == STANDARD_STREAM:
        usage_error("--save is for a file; leave it out, as standard output gets the result by default", output)
    if file.is_dir():
        usage_error(f"--save {file} is a folder; name a file", output)
    if not file.exists() and not os.access(file.parent, os.W_OK | os.X_OK):
        usage_error(f"--save {file} cannot be written: {file.parent} is not a folder that you can write to", output)
