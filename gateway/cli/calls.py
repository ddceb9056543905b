"""`send`, `get`, `wait` and `cancel`: one answer each."""

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import duration_pb2
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli import leave, show
from gateway.cli import options as opt
from gateway.cli.exits import JOB_FAILED, STILL_RUNNING
from gateway.cli.failure import CallFailed
from gateway.cli.request import job_request
from gateway.cli.result import Result
from gateway.cli.session import Session, check_output, session, write_output
from gateway.cli.stream import JobStream

_DEADLINE = 60.0
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


def send(
    workspace: opt.Workspace,
    entity: opt.Entity,
    method: opt.Method = None,
    method_type: opt.MethodType = None,
    editor_session: opt.EditorSession = None,
    events: opt.Events = None,
    timeout: opt.JobTimeout = None,
    poll_result: opt.PollResult = None,
    request_id: opt.RequestId = None,
    param: opt.Param = None,
    params: opt.Params = None,
    params_file: opt.ParamsFile = None,
    target: opt.Target = opt.DEFAULT_TARGET,
    token_file: opt.TokenFile = None,
    deadline: opt.CallDeadline = None,
    as_json: opt.Json = False,
    output: opt.Output = None,
) -> None:
    """Send a job and leave it to itself."""
    check_output(output)
    request = job_request(
        workspace=workspace,
        entity=entity,
        method=method,
        method_type=method_type,
        editor_session=editor_session,
        events=events,
        timeout=timeout,
        poll_result=poll_result,
        request_id=request_id,
        param=param,
        params=params,
        params_file=params_file,
        content_format=_answer_format(output),
    )
    with session(target, token_file, deadline) as current:
        try:
            job = current.client.call(current.client.stub.SendJob, request, current.deadline)
        except KeyboardInterrupt:
            leave.interrupted(current, 0, request, cancel=False)
        except CallFailed as error:
            leave.failed(current, error.failure, 0, request)
        _conclude(current, job, as_json=as_json, output=output)


def get(
    uid: opt.Uid,
    target: opt.Target = opt.DEFAULT_TARGET,
    token_file: opt.TokenFile = None,
    deadline: opt.CallDeadline = _DEADLINE,
    as_json: opt.Json = False,
    output: opt.Output = None,
) -> None:
    """Show how a job is now."""
    check_output(output)
    with session(target, token_file, deadline) as current:
        request = pb.GetJobRequest(uid=uid, content_format=_answer_format(output))
        job = current.client.call(current.client.stub.GetJob, request, current.deadline)
        _conclude(current, job, as_json=as_json, output=output)


def wait(
    uid: opt.Uid,
    timeout: WaitTimeout = None,
    target: opt.Target = opt.DEFAULT_TARGET,
    token_file: opt.TokenFile = None,
    deadline: opt.CallDeadline = None,
    cancel_on_interrupt: opt.CancelOnInterrupt = False,
    as_json: opt.Json = False,
    output: opt.Output = None,
) -> None:
    """Wait until a job has ended, without following it."""
    check_output(output)
    with session(target, token_file, deadline) as current:
        request = pb.WaitJobRequest(uid=uid, content_format=_answer_format(output))
        if timeout is not None:
            request.timeout.CopyFrom(_duration(timeout))
        try:
            job = _wait(current, request)
        except KeyboardInterrupt:
            leave.interrupted(current, uid, None, cancel=cancel_on_interrupt)
        _conclude(current, job, as_json=as_json, output=output)
        if not job.done:
            raise typer.Exit(STILL_RUNNING)


def cancel(
    uid: opt.Uid,
    target: opt.Target = opt.DEFAULT_TARGET,
    token_file: opt.TokenFile = None,
    deadline: opt.CallDeadline = _DEADLINE,
    as_json: opt.Json = False,
) -> None:
    """Ask to cancel a job."""
    with session(target, token_file, deadline) as current:
        request = pb.CancelJobRequest(uid=uid)
        job = current.client.call(current.client.stub.CancelJob, request, current.deadline)
        if as_json:
            show.show_json(job)
        else:
            show.show_job(job)
        if not job.done:
            show.note(f"it was asked to cancel and may go on for a while: {current.watch_command(uid)}")


def _wait(current: Session, request: pb.WaitJobRequest) -> pb.Job:
    """Wait in calls as long as the gateway lets one last; a timeout of the user's own is one call."""
    while True:
        job = current.client.call(current.client.stub.WaitJob, request, current.deadline)
        left = current.deadline.left()
        # Just before the deadline the gateway answers at once, and calling on would only load it.
        if job.done or request.HasField("timeout") or (left is not None and left < _LEAST_WAIT):
            return job


def _conclude(current: Session, job: pb.Job, *, as_json: bool, output: Path | None) -> None:
    """Show an answer and its result, and leave the process where the job ended otherwise than well."""
    if as_json:
        show.show_json(job)
    else:
        show.show_job(job)
    if not job.done:
        show.note(f"watch it: {current.watch_command(job.uid)}")
        return
    if output:
        write_output(_fetch(current, job), output)
    elif job.content_omitted:
        command = current.watch_command(job.uid)
        show.note(f"the result is too large for one answer ({job.content_size:,} bytes): {command} --output FILE")
    elif not as_json:
        result = Result()
        result.take_job(job)
        show.show_result(result, job.uid)
    if not show.succeeded(job):
        raise typer.Exit(JOB_FAILED)


def _answer_format(output: Path | None) -> pb.ContentFormat.ValueType:
    # What goes into a file is fetched as a stream afterwards, for no single answer carries every result.
    return pb.CONTENT_FORMAT_NONE if output else pb.CONTENT_FORMAT_UNSPECIFIED


def _fetch(current: Session, job: pb.Job) -> Result:
    result = Result()
    if job.content_size:
        opening = pb.WatchJobRequest(uid=job.uid, content_format=pb.CONTENT_FORMAT_JSON_CHUNKS)
        for event in JobStream(current.client, opening, current.deadline, show.note):
            result.take(event)
    return result


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration
