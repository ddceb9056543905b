"""The frame around every client command: its connection, and how each way to fail becomes an exit code."""

import io
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import typer

from gateway.cli import show
from gateway.cli.client import Client, Deadline, TokenUnusable, read_token, token_given
from gateway.cli.exits import BROKEN_PIPE, CALL_FAILED, INTERRUPTED, USAGE
from gateway.cli.failure import CallFailed, Failure
from gateway.cli.options import DEFAULT_TARGET, STANDARD_STREAM, CallOptions, OutputOptions
from gateway.cli.result import Result, ResultBroken
from gateway.cli.tls import TlsUnusable, channel_credentials


@dataclass(frozen=True)
class Session:
    """What a client command works with; `connection` are the options by which another would connect as this one."""

    client: Client
    deadline: Deadline
    connection: tuple[str, ...] = ()

    def watch_command(self, uid: int) -> str:
        """The command that watches a job as this one would."""
        command = ["jobgateway", "watch", str(uid)]
        if self.client.target != DEFAULT_TARGET:
            command += ["--target", self.client.target]
        return shlex.join([*command, *self.connection])


@contextmanager
def session(call: CallOptions, shown: OutputOptions | None = None) -> Iterator[Session]:
    """A connection. Leaves the process with the exit code for what goes wrong within, or could not go well."""
    if shown:
        _check_output(shown)
    # Not every locale has every character; one that cannot be written is no reason to end. Standard error knows that.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        tls = channel_credentials(call)
        # A caller with a certificate is known without a token, and a gateway may have one of its own for it.
        token = read_token(call.token_file) if token_given(call.token_file) or call.cert_file is None else None
    except (TlsUnusable, TokenUnusable) as error:
        usage_error(str(error))
    with Client(call.target, token, tls) as client:
        try:
            yield Session(client, Deadline(call.deadline), _connection(call))
        except CallFailed as failed:
            show_failure(failed.failure, call.target)
            raise typer.Exit(CALL_FAILED) from failed
        except ResultBroken as error:
            show.problem(f"{error}; get it again")
            raise typer.Exit(CALL_FAILED) from error
        except KeyboardInterrupt as error:
            show.note("interrupted")
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:
            _silence_standard_output()
            raise typer.Exit(BROKEN_PIPE) from error


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
    show.problem(failure.line(target))
    for line in failure.fields[1:]:
        show.problem(f"  {line}")


def usage_error(line: str) -> NoReturn:
    """Prints what is wrong with the command line or a setting, and leaves."""
    show.problem(line)
    raise typer.Exit(USAGE)


def write_result(result: Result, file: Path, uid: int) -> None:
    """Writes the result of job `uid` to its file and says so, or leaves where that fails."""
    if not result.data:
        show.note("there is no result" if file == STANDARD_STREAM else f"there is no result, so {file} was not written")
        return
    if file == STANDARD_STREAM:
        show.show_result(result, uid, end=b"")
        return
    try:
        file.write_bytes(result.data)
    except OSError as error:
        usage_error(f"--output {file} cannot be written: {error.strerror}")
    show.note(f"result: {len(result.data):,} bytes in {file}")


def _check_output(shown: OutputOptions) -> None:
    file = shown.output
    if shown.result_only:
        if shown.as_json:
            usage_error("--json and --output - both want standard output: give --output a file")
    elif file and not file.exists() and not os.access(file.parent, os.W_OK | os.X_OK):
        usage_error(f"--output {file} cannot be written: {file.parent} is no folder that can be written to")


def _silence_standard_output() -> None:
    # Whoever read it has left, and at its exit Python would complain about what it could not flush.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
