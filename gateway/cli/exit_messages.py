"""The last messages of a command that leaves before the end of its job: the job, and how to watch it again."""

from typing import NoReturn

import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError

from gateway.cli import display, stdio
from gateway.cli.exit_codes import CALL_FAILED
from gateway.cli.job_lines import job_line
from gateway.cli.session import Session

_CANCEL_SECONDS = 30.0


def failed(current: Session, error: GatewayError, uid: int, sent: pb.SendJobRequest | None) -> NoReturn:
    """Leave because of an error.

    `uid` is the job, or 0 if it is not known. `sent` is the request that the command sent, if it sent one.
    """
    current.sent, current.uid = sent, uid
    current.show_error(error)
    if sent and (uid or error.may_have_arrived):
        display.note(current.whereabouts())
    raise typer.Exit(current.failure_code(error, sending=sent is not None and not uid))


def result_lost(current: Session) -> NoReturn:
    """Leave because the gateway has not kept the result of a job that has no number."""
    # The upstream gave the job no number, so its result cannot be requested again.
    current.show_failure("DATA_LOSS", "the job has no number, and its result cannot be fetched later")
    raise typer.Exit(CALL_FAILED)


def interrupted_many(current: Session, uids: list[int], *, cancel: bool) -> NoReturn:
    """Leave because of a signal, such as Ctrl-C; with `cancel`, ask to cancel the jobs first, which have not ended."""
    # A second Ctrl-C leaves immediately, as below.
    stdio.leave_on_interrupt()
    if cancel:
        current.show_interrupt(f"interrupted; cancelling {len(uids)} jobs")
        for uid in uids:
            try:
                job = current.client.cancel(uid, timeout=_CANCEL_SECONDS)
            except GatewayError as error:
                # The others are to be cancelled, too.
                current.show_error(error)
            else:
                display.note(f"asked to cancel; state: {job_line(job)}")
    else:
        again = f"watch them again: {current.watch_command(*uids)}" if uids else ""
        current.show_interrupt("; ".join(filter(None, (f"interrupted; {len(uids)} jobs continue", again))))
    raise typer.Exit(stdio.interrupt_code())


def interrupted(current: Session, uid: int, sent: pb.SendJobRequest | None, *, cancel: bool) -> NoReturn:
    """Leave because of a signal, such as Ctrl-C; with `cancel`, ask to cancel the job first.

    `uid` and `sent` are as in `failed`.
    """
    current.sent, current.uid = sent, uid
    # A second Ctrl-C leaves immediately, because the rest may block, as standard error may.
    stdio.leave_on_interrupt()
    if sent and not uid:
        current.show_interrupt(f"interrupted, and nothing was cancelled; {current.whereabouts()}")
    elif not cancel:
        current.show_interrupt(f"interrupted; job {uid} continues, watch it again: {current.watch_command(uid)}")
    else:
        current.show_interrupt(f"interrupted; cancelling job {uid}")
        job = current.client.cancel(uid, timeout=_CANCEL_SECONDS)
        display.note(f"asked to cancel; state: {job_line(job)}")
    raise typer.Exit(stdio.interrupt_code())
