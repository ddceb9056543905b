"""The frame around every client command: its connection, and how each way to fail becomes an exit code."""

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
from gateway.cli.client import Client, Deadline, TokenUnusable, read_token
from gateway.cli.exits import BROKEN_PIPE, CALL_FAILED, INTERRUPTED, USAGE
from gateway.cli.failure import CallFailed, Failure
from gateway.cli.options import DEFAULT_TARGET
from gateway.cli.result import Result, ResultBroken
from gateway.cli.text import clean


@dataclass(frozen=True)
class Session:
    """What a client command works with."""

    client: Client
    deadline: Deadline
    token_file: Path | None = None

    def watch_command(self, uid: int) -> str:
        """Return the command that watches a job as this one would."""
        command = ["jobgateway", "watch", str(uid)]
        if self.client.target != DEFAULT_TARGET:
            command += ["--target", self.client.target]
        if self.token_file:
            command += ["--token-file", str(self.token_file)]
        return shlex.join(command)


@contextmanager
def session(target: str, token_file: Path | None, seconds: float | None) -> Iterator[Session]:
    """Connect, and leave the process with the exit code for what goes wrong within."""
    try:
        token = read_token(token_file)
    except TokenUnusable as error:
        usage_error(str(error))
    with Client(target, token) as client:
        try:
            yield Session(client, Deadline(seconds), token_file)
        except CallFailed as failed:
            show_failure(failed.failure, target)
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


def show_failure(failure: Failure, target: str) -> None:
    """Print what went wrong, and the fields that are at fault."""
    show.problem(failure.line(target))
    for field, description in failure.violations:
        show.problem(f"  {clean(field) or '(request)'}: {description}")


def usage_error(line: str) -> NoReturn:
    """Print what is wrong with the command line and leave."""
    show.problem(line)
    raise typer.Exit(USAGE)


def check_output(file: Path | None) -> None:
    """Leave at once where the result could not be written in the end."""
    if file and not file.exists() and not os.access(file.parent, os.W_OK | os.X_OK):
        usage_error(f"--output {file} cannot be written: {file.parent} is no folder that can be written to")


def write_output(result: Result, file: Path) -> None:
    """Write the result to its file and say so, or leave where that fails."""
    if not result.data:
        show.note(f"there is no result, so {file} was not written")
        return
    try:
        file.write_bytes(result.data)
    except OSError as error:
        usage_error(f"--output {file} cannot be written: {error.strerror}")
    show.note(f"result: {len(result.data):,} bytes in {file}")


def _silence_standard_output() -> None:
    # Whoever read it has left, and at its exit Python would complain about what it could not flush.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
