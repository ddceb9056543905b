"""The frame of each client command: its connection, and the exit code for each way to fail."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Client, GatewayError
from jobgateway_client.deadline import Deadline

from gateway.cli.client.credentials import TlsUnusable, TokenUnusable, tls, token_given, token_source
from gateway.cli.exit_codes import (
    JOB_FAILED,
    NOT_PERMITTED,
    TIME_PASSED,
)
from gateway.cli.failures import error_messages, time_limits
from gateway.cli.failures.connection_faults import Fault, fault
from gateway.cli.failures.error_messages import error_lines
from gateway.cli.failures.failure_codes import failure_code
from gateway.cli.failures.problems import output_lost, usage_error
from gateway.cli.options import contexts
from gateway.cli.options.contexts import Strength
from gateway.cli.options.shared import STANDARD_STREAM, CallOptions, ConnectionOptions, Output
from gateway.cli.options.targets import TargetUnusable, check_target
from gateway.cli.output import json_output, stdio, terminal
from gateway.cli.output.formatting import clean

_INTERRUPTED = "INTERRUPTED"
_LONGEST_CAUSE = 200


@dataclass
class Session:
    """The state of a client command.

    Attributes:
        client: The client of the gateway.
        target: The address of the gateway.
        deadline: The time limit of the command.
        output: The content of standard output.
        connection: The options with which another command of this user connects in the same way.
        sent: The request for a job, if one may have been sent.
        uid: The job of that request, or 0 if it is not known.
        call: The options of the connection, which show why it failed, and the time limit.
        verb: The command that a person repeats after a failure: `watch` or `wait`.
        ended: The jobs that have ended, and whose results are arriving.
        seen: The jobs of which a state has arrived.
        leaves_nothing: True if the jobs and the gateway end with the command.
        failing: The reasons why the upstream fails, by job.

    """

    client: Client
    target: str
    deadline: Deadline
    output: Output = Output.TEXT
    connection: tuple[str, ...] = ()
    sent: pb.SendJobRequest | None = None
    uid: int = 0
    call: CallOptions | None = None
    verb: str = "watch"
    ended: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    leaves_nothing: bool = False
    failing: dict[int, str] = field(default_factory=dict)

    def note(self, event: pb.JobEvent) -> None:
        """Note what an event says about its job."""
        is_result = event.HasField("content_chunk")
        if is_result:
            self.ended.add(event.uid)
        # A job that was sent runs, although no state of it may have arrived.
        if is_result or event.HasField("job") or self.sent:
            self.seen.add(event.uid)
        if event.heartbeat.last_failure:
            self.failing[event.uid] = event.heartbeat.last_failure
        else:
            self.failing.pop(event.uid, None)

    def time_passed(self, error: GatewayError, deadline: Deadline, option: str, seconds: float) -> str:
        """Return the line about a time limit, which was given as `option`, with the failure before it."""
        before = time_limits.cause(error)
        upstream = next(reversed(self.failing.values()), "")
        failure = f" while the upstream was failing ({clean(upstream)})" if upstream else ""
        if before:
            failure = f" ({error_messages.cause(before, self.target)[:_LONGEST_CAUSE]})"
        return time_limits.problem(deadline, option, seconds, failure)

    def watch_command(self, *uids: int) -> str:
        """Return the command that watches jobs over the same connection."""
        return shlex.join(["jobgateway", "watch", *map(str, uids), *self.connection])

    def again(self, *uids: int) -> str:
        """Return how to repeat the command for jobs that may not have ended."""
        if self.verb == "wait":
            return f"wait again: {shlex.join(['jobgateway', 'wait', *map(str, uids), *self.connection])}"
        return f"watch {'it' if len(uids) == 1 else 'them'} again: {self.watch_command(*uids)}"

    def save_command(self, uid: int) -> str:
        """Return the command that writes the result of a job to a file."""
        return f"{self.watch_command(uid)} --save job-{uid}.json"

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

    def is_over(self, error: GatewayError) -> bool:
        """Return whether a call failed because the time of `--deadline` is over."""
        return self.call is not None and time_limits.passed(error, self.deadline)

    def show_error(self, error: GatewayError, then: str = "", uids: Iterable[int] = ()) -> None:
        """Print an error with its invalid fields, and what to do then.

        As JSON, there is an object for each of the jobs that it is about.
        """
        uids = tuple(uids) or (error.uid or self.uid,)
        if self.call and self.call.deadline and self.is_over(error):
            problem = self.time_passed(error, self.deadline, "--deadline", self.call.deadline)
            self.show_failure(error.code.name, f"{problem}; {then or 'give it more time'}", *uids)
            return
        found = self._fault(error)
        for line in error_lines(error, self.target, found):
            terminal.problem(line)
        if then:
            terminal.note(then)
        if self.output is Output.JSON:
            known = error_messages.problem(error, self.target, found)
            message = "; ".join(filter(None, (known, found.fix if found else "", then)))
            for uid in uids:
                json_output.show_error(error, uid, message, found.code if found else "")

    def failure_code(self, error: GatewayError, *, sending: bool = False) -> int:
        """Return the exit code for an error. `sending` is as in `failure_codes.failure_code`."""
        found = self._fault(error)
        return found.exit_code if found else failure_code(error, sending=sending)

    def show_failed_cancellation(self, error: GatewayError, uid: int) -> None:
        """Print that a job was not cancelled when the command was interrupted, and how to cancel it."""
        cause = error_messages.cause(error, self.target, self._fault(error))
        again = shlex.join(["jobgateway", "cancel", str(uid), *self.connection])
        line = f"cancelling job {uid} failed ({cause}), so it may continue; try again: {again}"
        terminal.problem(line)
        if self.output is Output.JSON:
            json_output.show_error(error, uid, line, _INTERRUPTED)

    def _fault(self, error: GatewayError) -> Fault | None:
        return fault(error, self.call) if self.call else None

    def show_failure(self, code: str, line: str, *uids: int) -> None:
        """Print a failure that no call reported, of the job of this command or of others."""
        terminal.problem(line)
        self._show_json_failure(code, line, uids)

    def show_interrupt(self, line: str, *uids: int) -> None:
        """Print that the command was interrupted, and the rest of the `line`."""
        terminal.note(line)
        self._show_json_failure(_INTERRUPTED, line, uids)

    def _show_json_failure(self, code: str, line: str, uids: tuple[int, ...]) -> None:
        if self.output is Output.JSON:
            for uid in uids or (self.uid,):
                json_output.show_failure(code, line, uid=uid)


@contextmanager
def session(
    call: CallOptions,
    output: Output,
    save: Path | None = None,
    *,
    uids: Sequence[int] = (),
    needs_token: bool = True,
) -> Iterator[Session]:
    """Connect, and leave the process with an exit code if something fails within or before.

    `uids`: The jobs that the command is about. `needs_token`: Leave also if there is no token and no certificate.
    """
    if save:
        _check_save(save, output, uids)
    try:
        check_target(call.target)
        secured = tls(call)
        token = token_source(call) if needs_token or token_given(call) else None
    except (TargetUnusable, TlsUnusable) as error:
        usage_error(str(error), output, uids=uids)
    except TokenUnusable as error:
        usage_error(str(error), output, NOT_PERMITTED, uids=uids)
    # A person decides about a retry of a single call.
    with Client(call.target, token=token, tls=secured, attempts=1) as client:
        current = Session(client, call.target, Deadline(call.deadline), output, repeated_options(call), call=call)
        if len(uids) == 1:
            (current.uid,) = uids
        try:
            with stdio.interruptible():
                yield from _checked(current)
        except GatewayError as error:
            current.show_error(error)
            raise typer.Exit(current.failure_code(error)) from error
        except KeyboardInterrupt as error:
            where = "" if current.leaves_nothing else current.whereabouts()
            current.show_interrupt("; ".join(filter(None, ("interrupted", where))))
            raise typer.Exit(stdio.interrupt_code()) from error
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


def repeated_options(call: ConnectionOptions) -> tuple[str, ...]:
    """Return the options with which another command of this user connects in the same way.

    They include what variables gave, because these may be set for one command only. A variable with a token cannot be
    repeated, and then a context is not named, because it may have another token.
    """
    if call.chosen and call.sources.get("context") is not Strength.OPTION and _has_token_of_variable(call):
        return ("--target", call.target, *connection_words(call))
    words = {
        "context": ("--context", call.context) if call.context and call.chosen else (),
        "target": ("--target", call.target),
        **_options(call),
    }
    return tuple(word for name, each in words.items() if _is_given(call, name) for word in each)


def connection_words(call: ConnectionOptions) -> tuple[str, ...]:
    """Return the options, except the target, with which another command connects in the same way, without a context."""
    return tuple(word for each in _options(call).values() for word in each)


def _has_token_of_variable(call: ConnectionOptions) -> bool:
    return call.token_file is None and token_given(call)


def _is_given(call: ConnectionOptions, name: str) -> bool:
    return call.sources.get(name) in (Strength.OPTION, Strength.VARIABLE)


def _options(call: ConnectionOptions) -> dict[str, tuple[str, ...]]:
    words: dict[str, tuple[str, ...]] = {"tls": ("--tls",)} if call.tls else {}
    if not call.tls and _is_given(call, "tls"):
        words["tls"] = ("--no-tls",)
    for name in contexts.FILES:
        file: Path | None = getattr(call, name)
        if file:
            words[name] = (f"--{name.replace('_', '-')}", str(file))
    return words


def _check_save(file: Path, output: Output, uids: Sequence[int]) -> None:
    def fail(line: str) -> NoReturn:
        usage_error(line, output, uids=uids)

    if file == STANDARD_STREAM:
        fail("--save is for a file; leave it out, as standard output gets the result by default")
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        fail(f"--save {file} cannot be written ({error.strerror}); name another file")
    if file.is_dir():
        fail(f"--save {file} is a folder; name a file")
    if file.is_file():
        try:
            # Appends nothing, and keeps the contents until there is a result.
            file.open("ab").close()
        except OSError as error:
            fail(f"--save {file} cannot be written: {error.strerror}; name another file")
    # Of the file, if it is a link.
    folder = Path(os.path.realpath(file)).parent if file.is_symlink() else file.parent
    if not file.exists() and not os.access(folder, os.W_OK | os.X_OK):
        fail(f"--save {file} cannot be written: {folder} is not a folder that you can write to")
