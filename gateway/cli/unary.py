"""`send`, `get`, `wait` and `cancel`: one answer each."""

from typing import Annotated

import typer
from google.protobuf import duration_pb2
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli import display, exit_messages, stdio
from gateway.cli import options as opt
from gateway.cli.exit_codes import CALL_FAILED, JOB_FAILED, STILL_RUNNING
from gateway.cli.failure import CallFailed
from gateway.cli.request import job_request
from gateway.cli.result import Result
from gateway.cli.session import Session, session, write_result
from gateway.cli.stream import JobStream

_LEAST_WAIT = 1.0

WaitTimeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        min=0,
        max=opt.LONGEST_DEADLINE,
        metavar="SECONDS",
        help="How long to wait; 0 looks once. Without it, until the job has ended.",
        show_default=False,
    ),
]


def send(job: opt.JobOptions, call: opt.CallOptions, shown: opt.OutputOptions) -> None:
    """Send a job and leave it to itself."""
    with session(call, shown) as current:
        request = job_request(job, _answer_format(shown))
        current.sent = request
        try:
            answer = current.client.call(current.client.stub.SendJob, request, current.deadline)
        except KeyboardInterrupt:
            exit_messages.interrupted(current, 0, request, cancel=False)
        except CallFailed as error:
            exit_messages.failed(current, error.failure, 0, request)
        current.uid = answer.uid
        _conclude(current, answer, shown)


def get(uid: opt.Uid, call: opt.QuickCallOptions, shown: opt.OutputOptions) -> None:
    """Show how a job is now."""
    with session(call, shown) as current:
        request = pb.GetJobRequest(uid=uid, content_format=_answer_format(shown))
        _conclude(current, current.client.call(current.client.stub.GetJob, request, current.deadline), shown)


def wait(uid: opt.Uid, call: opt.LongCallOptions, shown: opt.OutputOptions, timeout: WaitTimeout = None) -> None:
    """Wait until a job has ended, without following it."""
    with session(call, shown) as current:
        request = pb.WaitJobRequest(uid=uid, content_format=_answer_format(shown))
        if timeout is not None:
            request.timeout.CopyFrom(_duration(timeout))
        try:
            job = _wait(current, request)
        except KeyboardInterrupt:
            exit_messages.interrupted(current, uid, None, cancel=call.cancel_on_interrupt)
        _conclude(current, job, shown)
        if not job.done:
            raise typer.Exit(STILL_RUNNING)


def cancel(uid: opt.Uid, call: opt.QuickCallOptions, as_json: opt.Json = False) -> None:
    """Ask to cancel a job."""
    with session(call) as current:
        request = pb.CancelJobRequest(uid=uid)
        job = current.client.call(current.client.stub.CancelJob, request, current.deadline)
        display.show_answer(job, as_json=as_json)
        stdio.check()
        if not job.done:
            display.note(f"it was asked to cancel and may go on for a while: {current.watch_command(uid)}")


def _wait(current: Session, request: pb.WaitJobRequest) -> pb.Job:
    """Waits in calls as long as the gateway lets one last; a timeout of the user's own is one call."""
    while True:
        job = current.client.call(current.client.stub.WaitJob, request, current.deadline)
        left = current.deadline.left()
        # Just before the deadline the gateway answers at once, and calling on would only load it.
        if job.done or request.HasField("timeout") or (left is not None and left < _LEAST_WAIT):
            return job


def _conclude(current: Session, job: pb.Job, shown: opt.OutputOptions) -> None:
    """Shows an answer and its result, and leaves the process where the job ended otherwise than well."""
    display.show_answer(job, as_json=shown.as_json, to_stderr=shown.result_only)
    if not shown.output:
        stdio.check()
    if not job.done:
        display.note(f"watch it: {current.watch_command(job.uid)}")
        return
    if job.content_omitted and not job.uid:
        # It had ended in the answer to its POST, which did not name it, so nothing can be asked about it.
        display.problem("the job has no number, and its result cannot be fetched later")
        if shown.output:
            raise typer.Exit(CALL_FAILED)
    elif shown.output:
        write_result(_fetch(current, job), shown.output, job.uid)
    elif job.content_omitted:
        command = current.watch_command(job.uid)
        display.note(f"the result is too large for one answer ({job.content_size:,} bytes): {command} --output FILE")
    elif not shown.as_json:
        result = Result()
        result.take_job(job)
        display.show_result(result, job.uid)
    if not display.succeeded(job):
        raise typer.Exit(JOB_FAILED)


def _answer_format(shown: opt.OutputOptions) -> pb.ContentFormat.ValueType:
    # What is written out is fetched as a stream afterwards, for no single answer carries every result.
    return pb.CONTENT_FORMAT_NONE if shown.output else pb.CONTENT_FORMAT_UNSPECIFIED


def _fetch(current: Session, job: pb.Job) -> Result:
    result = Result()
    if job.content_size:
        opening = pb.WatchJobRequest(uid=job.uid, content_format=pb.CONTENT_FORMAT_JSON_CHUNKS)
        for event in JobStream(current.client, opening, current.deadline, display.note):
            result.take(event)
    return result


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration
