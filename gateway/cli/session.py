"""The frame around every client command: its connection, and how each way to fail becomes an exit code."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import typer
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli import display, stdio
from gateway.cli.client import Client, Deadline, TokenUnusable, read_token, token_given
from gateway.cli.exit_codes import BROKEN_PIPE, CALL_FAILED, INTERRUPTED, JOB_FAILED, OUTPUT_LOST, STILL_RUNNING, USAGE
from gateway.cli.failure import CallFailed, Failure
from gateway.cli.formatting import clean
from gateway.cli.options import DEFAULT_TARGET, STANDARD_STREAM, CallOptions, OutputOptions
from gateway.cli.result import Result, ResultBroken
from gateway.cli.tls import TlsUnusable, channel_credentials


@dataclass
class Session:
    """The state of a client command.

    `connection` has the options by which another command would connect as this one. `sent` is the request that asked
    for a job, if one may have gone out, and `uid` that job, 0 if it is not known.
    """

    client: Client
    deadline: Deadline
    connection: tuple[str, ...] = ()
    sent: pb.SendJobRequest | None = None
    uid: int = 0

    def watch_command(self, uid: int) -> str:
        """The command that watches a job as this one would."""
        command = ["jobgateway", "watch", str(uid)]
        if self.client.target != DEFAULT_TARGET:
            command += ["--target", self.client.target]
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
        return f"{unknown}: look for it before you send it again"


@contextmanager
def session(call: CallOptions, shown: OutputOptions | None = None) -> Iterator[Session]:
    """A connection. Leaves the process with the exit code for what goes wrong within, or could not go well."""
    if shown:
        _check_output(shown)
    try:
        tls = channel_credentials(call)
        # A caller with a certificate is known without a token, and a gateway may have one of its own for it.
        token = read_token(call.token_file) if token_given(call.token_file) or call.cert_file is None else None
    except (TlsUnusable, TokenUnusable) as error:
        usage_error(str(error))
    with Client(call.target, token, tls, token_file=call.token_file) as client:
        current = Session(client, Deadline(call.deadline), _connection(call))
        try:
            with stdio.interruptible():
                yield from _checked(current)
        except CallFailed as failed:
            show_failure(failed.failure, call.target)
            raise typer.Exit(CALL_FAILED) from failed
        except ResultBroken as error:
            display.problem(f"{error}; get it again")
            raise typer.Exit(CALL_FAILED) from error
        except KeyboardInterrupt as error:
            display.note("; ".join(filter(None, ("interrupted", current.whereabouts()))))
            raise typer.Exit(INTERRUPTED) from error
        except stdio.OutputLost as error:
            raise typer.Exit(output_lost(error, current.whereabouts())) from error


def _checked(current: Session) -> Iterator[Session]:
    """Yield `current`; raises `OutputLost` if the command succeeded, or showed a job, and its output is incomplete."""
    try:
        yield current
    except typer.Exit as left:
        if left.exit_code in (JOB_FAILED, STILL_RUNNING):
            stdio.check()
        raise
    stdio.check()


def output_lost(error: stdio.OutputLost, whereabouts: str = "") -> int:
    """Print that the output was lost, and how to find the job that was sent; return the exit code."""
    # To leave a pipe early, as `head` does, is no fault of anybody.
    if whereabouts or not error.reader_gone:
        display.problem("; ".join(filter(None, (str(error), whereabouts))))
    return BROKEN_PIPE if error.reader_gone else OUTPUT_LOST


def _connection(call: CallOptions) -> tuple[str, ...]:
    files = {
        "--token-file": call.token_file,
        "--ca-file": call.ca_file,
        "--cert-file": call.cert_file,
        "--key-file": call.key_file,
    }
    named = (word for option, file in files.items() if file for word in (option, str(file)))
    return (*(["--tls"] if call.tls else []), *named)


def show_failure(failure: Failure, target: str) -> None:
    """Prints what went wrong, and the fields at fault beyond the first, which the line itself names."""
    display.problem(failure.line(target))
    for line in failure.fields[1:]:
        display.problem(f"  {line}")


def usage_error(line: str) -> NoReturn:
    """Prints what is wrong with the command line or a setting, and leaves."""
    display.problem(line)
    raise typer.Exit(USAGE)


def write_result(result: Result, file: Path, uid: int) -> None:
    """Write the result of job `uid` to its file and say so. Raises `OutputLost`."""
    if not result.data:
        display.note(
            "there is no result" if file == STANDARD_STREAM else f"there is no result, so {file} was not written"
        )
        return
    if file == STANDARD_STREAM:
        display.show_result(result, uid, end=b"")
        return
    try:
        file.write_bytes(result.data)
    except OSError as error:
        raise stdio.OutputLost(f"--output {file}", error) from error
    display.note(f"result: {len(result.data):,} bytes in {file}")


def _check_output(shown: OutputOptions) -> None:
    file = shown.output
    if shown.result_only:
        if shown.as_json:
            usage_error("--json and --output - both want standard output: give --output a file")
    elif file and not file.exists() and not os.access(file.parent, os.W_OK | os.X_OK):
        usage_error(f"--output {file} cannot be written: {file.parent} is no folder that can be written to")
