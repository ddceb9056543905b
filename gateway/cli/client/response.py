"""A response about one job on standard output, with the result of the job."""

import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client.result import Result

from gateway.cli.client import exit_messages
from gateway.cli.client.patience import PatientWatch
from gateway.cli.client.session import Session
from gateway.cli.display import results
from gateway.cli.display.job_lines import resumption, succeeded
from gateway.cli.exit_codes import JOB_FAILED
from gateway.cli.options.shared import Output, OutputOptions
from gateway.cli.output import terminal


def read(current: Session, uid: int) -> pb.Job:
    """Return the current state of a job."""
    # A result comes as a stream afterwards, because only that is the upstream's own bytes, regardless of their size.
    request = pb.GetJobRequest(uid=uid, content_format=pb.CONTENT_FORMAT_NONE)
    return current.client.get(request, timeout=current.deadline.left())


def conclude(current: Session, job: pb.Job, shown: OutputOptions, *, replayed: bool = False) -> None:
    """Put a response and its result on standard output. Leave the process if the job ended without success."""
    if shown.output is Output.NAME and job.uid:
        results.show_name(job.uid)
    is_lost = shown.wants_result and job.content_omitted and not job.uid
    result = b"" if is_lost or not (job.done and shown.wants_result) else _result(current, job, shown)
    results.conclude(job, result, shown, current.save_command(job.uid), replayed=replayed)
    if not job.done:
        terminal.note(f"watch it: {current.watch_command(job.uid)}")
        return
    if is_lost:
        exit_messages.result_lost(current)
    if not succeeded(job):
        raise typer.Exit(JOB_FAILED)


def _result(current: Session, job: pb.Job, shown: OutputOptions) -> bytes | bytearray:
    if not job.uid:
        return Result.of(job).data
    if not job.content_size:
        return b""
    if shown.output is Output.TEXT and not shown.save and not terminal.fits_terminal(job.content_size):
        terminal.note(f"the result has {job.content_size:,} bytes: {current.save_command(job.uid)}")
        return b""
    return _fetch(current, job)


def _fetch(current: Session, job: pb.Job) -> bytes | bytearray:
    start = pb.WatchJobRequest(uid=job.uid, content_format=pb.CONTENT_FORMAT_JSON_CHUNKS)
    events = PatientWatch(current.client, start, current.deadline, lambda retry: terminal.note(resumption(retry)))
    for _ in events:
        pass
    return events.result
