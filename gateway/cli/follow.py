"""`run` and `watch`: a job's events up to its end."""

from pathlib import Path

import typer
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli import leave, show
from gateway.cli import options as opt
from gateway.cli.exits import JOB_FAILED
from gateway.cli.failure import CallFailed
from gateway.cli.request import job_request
from gateway.cli.result import Result
from gateway.cli.session import Session, check_output, session, write_output
from gateway.cli.stream import JobStream


def run(
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
    cancel_on_interrupt: opt.CancelOnInterrupt = False,
    as_json: opt.Json = False,
    output: opt.Output = None,
) -> None:
    """Send a job and watch it until it ends."""
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
        content_format=_stream_format(output),
    )
    with session(target, token_file, deadline) as current:
        opening = pb.RunJobRequest(request=request)
        follow(current, opening, as_json=as_json, output=output, cancel=cancel_on_interrupt)


def watch(
    uid: opt.Uid,
    target: opt.Target = opt.DEFAULT_TARGET,
    token_file: opt.TokenFile = None,
    deadline: opt.CallDeadline = None,
    cancel_on_interrupt: opt.CancelOnInterrupt = False,
    as_json: opt.Json = False,
    output: opt.Output = None,
) -> None:
    """Watch a job until it ends."""
    check_output(output)
    with session(target, token_file, deadline) as current:
        opening = pb.WatchJobRequest(uid=uid, content_format=_stream_format(output))
        follow(current, opening, as_json=as_json, output=output, cancel=cancel_on_interrupt)


def _stream_format(output: Path | None) -> pb.ContentFormat.ValueType:
    """Return how a stream is to deliver the result: into a file as the upstream's own bytes, whatever their size."""
    return pb.CONTENT_FORMAT_JSON_CHUNKS if output else pb.CONTENT_FORMAT_UNSPECIFIED


def follow(
    current: Session,
    opening: pb.RunJobRequest | pb.WatchJobRequest,
    *,
    as_json: bool,
    output: Path | None,
    cancel: bool,
) -> None:
    """Show a job until it ends, and leave the process unless it ended well."""
    sent = opening.request if isinstance(opening, pb.RunJobRequest) else None
    result = Result()
    screen = show.display(as_json=as_json)
    stream = JobStream(current.client, opening, current.deadline, screen.note)
    job = pb.Job()
    try:
        with screen:
            for event in stream:
                screen.event(event)
                if output or not as_json:
                    result.take(event)
                job = event.job
    except KeyboardInterrupt:
        leave.interrupted(current, stream.uid, sent, cancel=cancel)
    except CallFailed as error:
        leave.failed(current, error.failure, stream.uid, sent)
    if output:
        write_output(result, output)
    elif not as_json:
        show.show_result(result, job.uid)
    if not show.succeeded(job):
        raise typer.Exit(JOB_FAILED)
