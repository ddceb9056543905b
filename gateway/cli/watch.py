"""`run` and `watch`: a job's events up to its end."""

import typer
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli import display, exit_messages, stdio
from gateway.cli.exit_codes import JOB_FAILED
from gateway.cli.failure import CallFailed
from gateway.cli.options import JobOptions, LongCallOptions, OutputOptions, Uid
from gateway.cli.request import job_request
from gateway.cli.result import Result
from gateway.cli.session import Session, session, write_result
from gateway.cli.stream import JobStream


def run(job: JobOptions, call: LongCallOptions, shown: OutputOptions) -> None:
    """Send a job and watch it until it ends."""
    with session(call, shown) as current:
        opening = pb.RunJobRequest(request=job_request(job, _stream_format(shown)))
        follow(current, opening, shown, cancel=call.cancel_on_interrupt)


def watch(uid: Uid, call: LongCallOptions, shown: OutputOptions) -> None:
    """Watch a job until it ends."""
    with session(call, shown) as current:
        opening = pb.WatchJobRequest(uid=uid, content_format=_stream_format(shown))
        follow(current, opening, shown, cancel=call.cancel_on_interrupt)


def _stream_format(shown: OutputOptions) -> pb.ContentFormat.ValueType:
    # What is written out is to be the upstream's own bytes, whatever their size.
    return pb.CONTENT_FORMAT_JSON_CHUNKS if shown.output else pb.CONTENT_FORMAT_UNSPECIFIED


def follow(
    current: Session, opening: pb.RunJobRequest | pb.WatchJobRequest, shown: OutputOptions, *, cancel: bool
) -> None:
    """Shows a job until it ends, and leaves the process unless it ended well; `cancel`: what Ctrl-C does to it."""
    sent = opening.request if isinstance(opening, pb.RunJobRequest) else None
    result = Result()
    screen = display.display(as_json=shown.as_json, to_stderr=shown.result_only)
    stream = JobStream(current.client, opening, current.deadline, screen.note)
    job = pb.Job()
    current.sent = sent
    try:
        with screen:
            for event in stream:
                current.uid = stream.uid
                screen.event(event)
                if not shown.output:
                    # Nobody sees the rest. With a file for the result there is something to go on for.
                    stdio.check()
                if shown.output or not shown.as_json:
                    result.take(event)
                job = event.job
    except KeyboardInterrupt:
        exit_messages.interrupted(current, stream.uid, sent, cancel=cancel)
    except CallFailed as error:
        exit_messages.failed(current, error.failure, stream.uid, sent)
    if shown.output:
        write_result(result, shown.output, job.uid)
    elif not shown.as_json:
        display.show_result(result, job.uid)
    if not display.succeeded(job):
        raise typer.Exit(JOB_FAILED)
