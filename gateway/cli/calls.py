"""The work of `send`, `get`, `wait` and `cancel`: one response each."""

from threading import Event

import typer
from google.protobuf import duration_pb2
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError
from jobgateway_client.result import Result

from gateway.cli import display, exit_messages, json_output
from gateway.cli import options as opt
from gateway.cli.exit_codes import JOB_FAILED, TIME_PASSED
from gateway.cli.job_lines import show_job, succeeded
from gateway.cli.output import conclude, show_name
from gateway.cli.patience import Patience, PatientWatch, resumption
from gateway.cli.request import job_request
from gateway.cli.session import Session, session

# A result comes as a stream afterwards, because only that is the upstream's own bytes, regardless of their size.
_NO_RESULT = pb.CONTENT_FORMAT_NONE


def send(job: opt.JobOptions, call: opt.CallOptions, shown: opt.OutputOptions) -> None:
    """Send a job without watching it."""
    with session(call, shown.output, shown.save) as current:
        request = job_request(job, pb.CONTENT_FORMAT_UNSPECIFIED, shown.output)
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


def get(uid: int, call: opt.QuickCallOptions, shown: opt.OutputOptions) -> None:
    """Show the current state of a job."""
    with session(call, shown.output, shown.save) as current:
        request = pb.GetJobRequest(uid=uid, content_format=_NO_RESULT)
        _conclude(current, current.client.get(request, timeout=current.deadline.left()), shown)


def wait(uid: int, call: opt.LongCallOptions, shown: opt.OutputOptions, timeout: float | None) -> None:
    """Wait until a job has ended, without its progress. A terminal shows how long."""
    from rich.console import Console

    from gateway.cli.moving import waiting

    with session(call, shown.output, shown.save) as current:
        request = pb.WaitJobRequest(uid=uid, content_format=_NO_RESULT)
        if timeout is not None:
            request.timeout.CopyFrom(_duration(timeout))
        retrying = Patience().limiting(lambda retry: display.note(resumption(retry)))
        try:
            with waiting(uid, Console(stderr=True)):
                job = current.client.wait(request, timeout=current.deadline.left(), on_retry=retrying)
        except KeyboardInterrupt:
            exit_messages.interrupted(current, uid, None, cancel=call.cancel_on_interrupt)
        _conclude(current, job, shown)
        if not job.done:
            raise typer.Exit(TIME_PASSED)


def cancel(uid: int, call: opt.QuickCallOptions, output: opt.Output) -> None:
    """Ask to cancel a job."""
    with session(call, output) as current:
        job = current.client.cancel(uid, timeout=current.deadline.left())
        show_job(job)
        match output:
            case opt.Output.JSON:
                json_output.show_message(job)
            case opt.Output.NAME:
                show_name(uid)
        if not job.done:
            display.note(f"the job was asked to cancel and may continue for a while: {current.watch_command(uid)}")


def _conclude(current: Session, job: pb.Job, shown: opt.OutputOptions, *, replayed: bool = False) -> None:
    """Show a response and its result. Leave the process if the job ended without success."""
    if replayed:
        display.note(display.replayed_line(job.uid))
    show_job(job)
    if shown.output is opt.Output.NAME and job.uid:
        show_name(job.uid)
    is_lost = shown.wants_result and job.content_omitted and not job.uid
    result = b"" if is_lost or not (job.done and shown.wants_result) else _result(current, job, shown)
    conclude(job, result, shown, current.save_command(job.uid), replayed=replayed)
    if not job.done:
        display.note(f"watch it: {current.watch_command(job.uid)}")
        return
    if is_lost:
        exit_messages.result_lost(current)
    if not succeeded(job):
        raise typer.Exit(JOB_FAILED)


def _result(current: Session, job: pb.Job, shown: opt.OutputOptions) -> bytes | bytearray:
    if not job.uid:
        return Result.of(job).data
    if not job.content_size:
        return b""
    if shown.output is opt.Output.TEXT and not shown.save and not display.fits_terminal(job.content_size):
        display.note(f"the result has {job.content_size:,} bytes: {current.save_command(job.uid)}")
        return b""
    return _fetch(current, job)


def _fetch(current: Session, job: pb.Job) -> bytes | bytearray:
    start = pb.WatchJobRequest(uid=job.uid, content_format=pb.CONTENT_FORMAT_JSON_CHUNKS)
    events = PatientWatch(current.client, start, current.deadline, lambda retry: display.note(resumption(retry)))
    for _ in events:
        pass
    return events.result


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration
