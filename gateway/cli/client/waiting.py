"""The work of `wait`: a watch that shows nothing but outages and the end."""

import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError
from jobgateway_client.deadline import Deadline

from gateway.cli.client import exit_messages, response
from gateway.cli.client.patience import PatientWatch
from gateway.cli.client.session import Session, session
from gateway.cli.display.event_display import wait_display
from gateway.cli.display.heartbeats import HEARTBEAT_SECONDS
from gateway.cli.display.job_lines import show_job
from gateway.cli.exit_codes import TIME_PASSED
from gateway.cli.failures import time_limits
from gateway.cli.options.shared import LongCallOptions, OutputOptions


def wait(uid: int, call: LongCallOptions, shown: OutputOptions, timeout: float | None) -> None:
    """Wait until a job has ended, without its progress. Leave the process unless it succeeded."""
    with session(call, shown.output, shown.save, uids=[uid]) as current:
        current.verb = "wait"
        if timeout == 0:
            job = response.read(current, uid)
            show_job(job)
        else:
            job = _last_state(current, timeout, cancel=call.cancel_on_interrupt)
        response.conclude(current, job, shown)
        if not job.done:
            raise typer.Exit(TIME_PASSED)


def _last_state(current: Session, timeout: float | None, *, cancel: bool) -> pb.Job:
    """Show the last state of the job, and return it: its end, unless the timeout passes first."""
    screen = wait_display(current.uid)
    start = pb.WatchJobRequest(uid=current.uid, content_format=pb.CONTENT_FORMAT_NONE)
    start.heartbeat_interval.FromSeconds(HEARTBEAT_SECONDS)
    limit = current.deadline if timeout is None else Deadline(current.deadline.within(timeout))
    events = PatientWatch(current.client, start, limit, screen.retrying)
    job = None
    try:
        with screen:
            for event in events:
                current.note(event)
                screen.event(event)
                job = event.job if event.HasField("job") else job
    except KeyboardInterrupt:
        exit_messages.interrupted(current, current.uid, None, cancel=cancel)
    except GatewayError as error:
        if timeout is None or time_limits.passed(error, current.deadline) or not time_limits.passed(error, limit):
            exit_messages.failed(current, error, current.uid, None, began=events.began)
        if job is None:
            exit_messages.no_state(current, current.time_passed(error, limit, "--timeout", timeout))
        show_job(job)
    return job or pb.Job(uid=current.uid)
