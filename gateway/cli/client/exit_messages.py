"""The last messages of a command that leaves before the end of its job: the job, and how to watch it again."""

from typing import NoReturn

import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError

from gateway.cli.client.session import Session
from gateway.cli.display.job_lines import job_line
from gateway.cli.exit_codes import CALL_FAILED, TIME_PASSED, UNAVAILABLE
from gateway.cli.failures import error_messages, time_limits
from gateway.cli.output import stdio, terminal
from gateway.cli.output.formatting import counted

_CANCEL_SECONDS = 30.0


def failed(
    current: Session, error: GatewayError, uid: int, sent: pb.SendJobRequest | None, *, began: bool = True
) -> NoReturn:
    """Leave because of an error.

    `uid` is the job, or 0 if it is not known. `sent` is the request that the command sent, if it sent one. `began`: the
    gateway responded at least once.
    """
    current.sent, current.uid = sent, uid
    before = time_limits.cause(error)
    if sent and not uid and not sent.request_id and current.is_over(error) and before:
        # Such a request is repeated only if it certainly created no job.
        error = before
    is_unclear = sent is not None and not uid
    is_unknown = is_unclear and error.reason == "SUBMIT_OUTCOME_UNKNOWN"
    code = current.failure_code(error, sending=is_unclear)
    then = ""
    if is_unclear:
        then = current.whereabouts() if error.may_have_arrived or is_unknown else ""
    elif current.is_over(error):
        then = _later(current, uid)
    elif sent:
        then = current.whereabouts()
    elif code == UNAVAILABLE and began:
        then = current.again(uid)
    current.show_error(error_messages.of_unknown_outcome(error) if is_unknown else error, then)
    raise typer.Exit(code)


def failed_many(current: Session, error: GatewayError, uids: list[int], *, began: bool) -> NoReturn:
    """Leave because of an error while several jobs have not ended. `began` is as in `failed`."""
    code = current.failure_code(error)
    then = ""
    if not uids:
        pass
    elif current.is_over(error):
        then = _later(current, *uids)
    elif code == UNAVAILABLE and began:
        then = current.again(*uids)
    current.show_error(error, then, uids)
    raise typer.Exit(code)


def no_state(current: Session, problem: str) -> NoReturn:
    """Leave because the time was over before the first state of the job."""
    line = f"{problem} before the first state of job {current.uid} arrived; {current.again(current.uid)}"
    current.show_failure("DEADLINE_EXCEEDED", line)
    raise typer.Exit(TIME_PASSED)


def result_lost(current: Session) -> NoReturn:
    """Leave because the gateway has not kept the result of a job that has no number."""
    # The upstream gave the job no number, so its result cannot be requested again.
    current.show_failure("DATA_LOSS", "the job has no number, and its result cannot be fetched later")
    raise typer.Exit(CALL_FAILED)


def interrupted_many(current: Session, uids: list[int], *, cancel: bool) -> NoReturn:
    """Leave because of a signal, such as Ctrl-C; with `cancel`, ask to cancel the jobs first, which have not ended."""
    # A second Ctrl-C leaves immediately, as below.
    stdio.leave_on_interrupt()
    if not uids:
        current.show_interrupt("interrupted; all jobs have ended")
    elif cancel:
        terminal.note(f"interrupted; cancelling {counted(len(uids), 'job')}")
        for uid in uids:
            _cancel(current, uid)
    else:
        current.show_interrupt(f"interrupted; {_later(current, *uids)}", *uids)
    raise typer.Exit(stdio.interrupt_code())


def interrupted(current: Session, uid: int, sent: pb.SendJobRequest | None, *, cancel: bool) -> NoReturn:
    """Leave because of a signal, such as Ctrl-C; with `cancel`, ask to cancel the job first.

    `uid` and `sent` are as in `failed`.
    """
    current.sent, current.uid = sent, uid
    # A second Ctrl-C leaves immediately, because the rest may block, as standard error may.
    stdio.leave_on_interrupt()
    if current.leaves_nothing:
        current.show_interrupt("interrupted")
    elif sent and not uid:
        current.show_interrupt(f"interrupted, and nothing was cancelled; {current.whereabouts()}")
    elif not cancel:
        current.show_interrupt(f"interrupted; {_later(current, uid)}")
    else:
        terminal.note(f"interrupted; cancelling job {uid}")
        _cancel(current, uid)
    raise typer.Exit(stdio.interrupt_code())


def _later(current: Session, *uids: int) -> str:
    """Return what is known about jobs whose end has not arrived, and how to watch them again."""
    if len(uids) == 1:
        (uid,) = uids
        known = f"job {uid} {'has ended' if uid in current.ended else 'continues'}"
        return f"{known if uid in current.seen else f'no state of job {uid} arrived'}, {current.again(uid)}"
    seen = len(current.seen.intersection(uids))
    known = f"{counted(seen, 'job')} continue{'s' if seen == 1 else ''}" if seen else ""
    unknown = f"no state of {counted(len(uids) - seen, 'job')} arrived" if seen < len(uids) else ""
    return f"{' and '.join(filter(None, (known, unknown)))}, {current.again(*uids)}"


def _cancel(current: Session, uid: int) -> None:
    try:
        job = current.client.cancel(uid, timeout=_CANCEL_SECONDS)
    except GatewayError as error:
        # The exit code is that of the signal, and other jobs are to be cancelled, too.
        current.show_failed_cancellation(error, uid)
    else:
        current.show_interrupt(f"asked to cancel; state: {job_line(job)}", uid)
