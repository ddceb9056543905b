"""`send`, `get`, `wait` and `cancel`: one response each."""

from threading import Event
from typing import Annotated

import typer
from google.protobuf import duration_pb2
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError
from jobgateway_client.result import Result
from rich.console import Console

from gateway.cli import display, exit_messages, stdio
from gateway.cli import options as opt
from gateway.cli.exit_codes import CALL_FAILED, JOB_FAILED, STILL_RUNNING
from gateway.cli.patience import PatientWatch, resumption
from gateway.cli.request import job_request
from gateway.cli.session import Session, session, write_result

WaitTimeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0,
        max=opt.LONGEST_DEADLINE,
        metavar="SECONDS",
        help="How long to wait; 0 reads the job once. Without it, wait until the job has ended.",
        show_default=False,
    ),
]


def send(job: opt.JobOptions, call: opt.CallOptions, shown: opt.OutputOptions) -> None:
    """Send a job without watching it."""
    with session(call, shown) as current:
        request = job_request(job, _response_format(shown))
        current.sent = request
        replayed = Event()
        try:
            response = current.client.send(request, timeout=current.deadline.left(), on_replayed=replayed.set)
        except KeyboardInterrupt:
            exit_messages.interrupted(current, 0, request, cancel=False)
        except GatewayError as error:
            exit_messages.failed(current, error, 0, request)
        current.uid = response.uid
        _conclude(current, response, shown, replayed=replayed.is_set())


def get(uid: opt.Uid, call: opt.QuickCallOptions, shown: opt.OutputOptions) -> None:
    """Show the current state of a job."""
    with session(call, shown) as current:
        request = pb.GetJobRequest(uid=uid, content_format=_response_format(shown))
        _conclude(current, current.client.get(request, timeout=current.deadline.left()), shown)


def wait(uid: opt.Uid, call: opt.LongCallOptions, shown: opt.OutputOptions, timeout: WaitTimeout = None) -> None:
    """Wait until a job has ended, without its progress. A terminal shows how long."""
    with session(call, shown) as current:
        request = pb.WaitJobRequest(uid=uid, content_format=_response_format(shown))
        if timeout is not None:
            request.timeout.CopyFrom(_duration(timeout))
        try:
            with display.waiting(uid, Console(stderr=True)):
                job = current.client.wait(request, timeout=current.deadline.left())
        except KeyboardInterrupt:
            exit_messages.interrupted(current, uid, None, cancel=call.cancel_on_interrupt)
        _conclude(current, job, shown)
        if not job.done:
            raise typer.Exit(STILL_RUNNING)


def cancel(uid: opt.Uid, call: opt.QuickCallOptions, as_json: opt.Json = False) -> None:
    """Ask to cancel a job."""
    with session(call) as current:
        job = current.client.cancel(uid, timeout=current.deadline.left())
        display.show_response(job, as_json=as_json)
        stdio.check()
        if not job.done:
            display.note(f"the job was asked to cancel and may continue for a while: {current.watch_command(uid)}")


def _conclude(current: Session, job: pb.Job, shown: opt.OutputOptions, *, replayed: bool = False) -> None:
    """Show a response and its result. Leave the process if the job ended without success."""
    display.show_response(job, as_json=shown.as_json, to_stderr=shown.result_only, replayed=replayed)
    if not shown.output:
        stdio.check()
    if not job.done:
        display.note(f"watch it: {current.watch_command(job.uid)}")
        return
    if job.content_omitted and not job.uid:
        # The upstream gave the job no number, so its result cannot be requested again.
        display.problem("the job has no number, and its result cannot be fetched later")
        if shown.output:
            raise typer.Exit(CALL_FAILED)
    elif shown.output:
        write_result(_fetch(current, job), shown.output, job.uid)
    elif job.content_omitted:
        command = current.watch_command(job.uid)
        display.note(f"the result is too large for one response ({job.content_size:,} bytes): {command} --output FILE")
    elif not shown.as_json:
        display.show_result(Result.of(job).data, job.uid)
    if not display.succeeded(job):
        raise typer.Exit(JOB_FAILED)


def _response_format(shown: opt.OutputOptions) -> pb.ContentFormat.ValueType:
    # A result for a file is fetched as a stream afterwards, because a single response does not carry every result.
    return pb.CONTENT_FORMAT_NONE if shown.output else pb.CONTENT_FORMAT_UNSPECIFIED


def _fetch(current: Session, job: pb.Job) -> bytes | bytearray:
    if not job.content_size:
        return b""
    start = pb.WatchJobRequest(uid=job.uid, content_format=pb.CONTENT_FORMAT_JSON_CHUNKS)
    events = PatientWatch(current.client, start, current.deadline, lambda retry: display.note(resumption(retry)))
    for _ in events:
        pass
    return events.result


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration
