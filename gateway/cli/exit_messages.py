"""How a command leaves that has not seen the job's end: what is known of the job, and how to get back to it."""

from typing import NoReturn

import typer
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli import display, stdio
from gateway.cli.client import Deadline
from gateway.cli.exit_codes import CALL_FAILED, INTERRUPTED
from gateway.cli.failure import Failure
from gateway.cli.formatting import job_line
from gateway.cli.session import Session, show_failure

_CANCEL_SECONDS = 30.0


def failed(current: Session, failure: Failure, uid: int, sent: pb.SendJobRequest | None) -> NoReturn:
    """Leaves because of an error.

    `uid` is the job, 0 where it is not known; `sent` is what the command asked to make a job of, if it did.
    """
    show_failure(failure, current.client.target)
    current.sent, current.uid = sent, uid
    if sent and (uid or failure.may_have_sent):
        display.note(current.whereabouts())
    raise typer.Exit(CALL_FAILED)


def interrupted(current: Session, uid: int, sent: pb.SendJobRequest | None, *, cancel: bool) -> NoReturn:
    """Leaves because of Ctrl-C, with `cancel` once the job was asked to cancel; `uid` and `sent` are as in `failed`."""
    current.sent, current.uid = sent, uid
    # A second Ctrl-C leaves at once: what follows may block, as standard error may.
    stdio.leave_on_interrupt()
    if sent and not uid:
        display.note(f"interrupted, and nothing was cancelled; {current.whereabouts()}")
    elif not cancel:
        display.note(f"interrupted; job {uid} goes on, watch it again: {current.watch_command(uid)}")
    else:
        display.note(f"interrupted; cancelling job {uid}")
        current.client.reconnect()  # the interrupt may have come in the middle of anything
        request = pb.CancelJobRequest(uid=uid)
        job = current.client.call(current.client.stub.CancelJob, request, Deadline(_CANCEL_SECONDS))
        display.note(f"asked to cancel, and now: {job_line(job)}")
    raise typer.Exit(INTERRUPTED)
