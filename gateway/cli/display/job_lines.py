"""Jobs and events as lines of text that are safe on a terminal."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime

from google.protobuf import json_format, struct_pb2, timestamp_pb2
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Retry

from gateway.cli.output.formatting import clean, clean_lines, counted
from gateway.cli.output.terminal import Style, write_line

_LONGEST_CAUSE = 200

_WORDS = {
    pb.JOB_STATUS_RUNNING: "running",
    pb.JOB_STATUS_SUCCESS: "success",
    pb.JOB_STATUS_ERROR: "error",
    pb.JOB_STATUS_ERROR_USER: "error_user",
    pb.JOB_STATUS_STOPPED: "stopped",
    pb.JOB_STATUS_CANCELLED: "cancelled",
    pb.JOB_STATUS_TIMEOUT: "timeout",
    pb.JOB_STATUS_EXPIRED: "expired",
}


END_WORDS = {
    pb.JOB_STATUS_SUCCESS: "succeeded",
    pb.JOB_STATUS_ERROR: "failed",
    pb.JOB_STATUS_ERROR_USER: "failed",
    pb.JOB_STATUS_STOPPED: "stopped",
    pb.JOB_STATUS_CANCELLED: "cancelled",
    pb.JOB_STATUS_TIMEOUT: "timed out",
    pb.JOB_STATUS_EXPIRED: "expired",
}


def status_word(job: pb.Job) -> str:
    """Return the word for the state of a job, or the upstream's own word if the gateway does not know it."""
    return _WORDS.get(job.status) or clean(job.status_text) or ("ended" if job.done else "state unknown")


def end_word(job: pb.Job) -> str:
    """Return the word for the end of a job."""
    return END_WORDS.get(job.status) or f"ended ({status_word(job)})"


def error_kind(job: pb.Job) -> str:
    """Return the kind of the error of a job in parentheses, after a space, or an empty text if it has none."""
    kind = "" if job.error.type in (status_word(job), end_word(job)) else clean(job.error.type)
    if job.status == pb.JOB_STATUS_ERROR_USER:
        kind = kind or "user"
    return f" ({kind})" if kind else ""


def percentage(job: pb.Job) -> float | None:
    """Return the progress of a job, 0 to 100, or None if it reported none."""
    if not job.progress.HasField("percentage"):
        return None
    # The comparison turns NaN into 0.
    return min(100.0, job.progress.percentage) if job.progress.percentage > 0 else 0.0


def job_line(job: pb.Job) -> str:
    """Return the state of a job in one line."""
    if job.done:
        state, message = f"{end_word(job)}{error_kind(job)}", job.error.message
    else:
        percent = percentage(job)
        state, message = status_word(job) + ("" if percent is None else f" {percent:.0f}%"), job.progress.message
    return f"job {job.uid} {state}" + (f": {clean(message)}" if message else "")


def event_line(event: pb.JobEvent) -> str | None:
    """Return an event in one line, or None for an unknown kind of event."""
    match event.WhichOneof("payload"):
        case "job":
            missed = f" ({event.skipped} states skipped)" if event.skipped else ""
            return job_line(event.job) + missed
        case "content_chunk":
            chunk = event.content_chunk
            received = chunk.offset + len(chunk.data)
            return f"job {event.uid} result: {received:,} of {chunk.content_size:,} bytes"
        case "heartbeat":
            return f"job {event.uid}: {_heartbeat(event.heartbeat)}"
        case _:
            return None


def job_details(job: pb.Job) -> Iterator[str]:
    """Yield the details of a job that has ended, a line each."""
    if job.error.HasField("invalid_fields"):
        yield "invalid fields:"
        yield from _fields(job.error.invalid_fields)
    if job.error.HasField("stack_trace"):
        yield "stack trace:"
        yield from _indented(job.error.stack_trace)
    if job.log_download_url:
        yield f"log: {clean(job.log_download_url)}"


def job_style(job: pb.Job) -> Style:
    """Return the colour of a job."""
    return "" if not job.done else "green" if succeeded(job) else "red"


def succeeded(job: pb.Job) -> bool:
    """Return True if a job ended with success."""
    return job.done and job.status == pb.JOB_STATUS_SUCCESS


def show_job(job: pb.Job) -> None:
    """Print the state of a job in a line, and its details if it has ended."""
    write_line(sys.stderr, job_line(job), job_style(job))
    for line in job_details(job):
        write_line(sys.stderr, line)


def upstream_failing(reason: str) -> str:
    """Return the words for an outage of the upstream."""
    return f"upstream failing ({reason})"


def resumption(retry: Retry) -> str:
    """Return the line about another attempt."""
    error = retry.error
    problem = error.message[:_LONGEST_CAUSE]
    if error.connection_failed:
        problem = "the gateway cannot be reached"
    elif not error.reason and error.code is StatusCode.UNAVAILABLE:
        problem = "the connection to the gateway was lost"
    job = f"job {retry.uid}: " if retry.uid else ""
    return f"{job}{problem}; resuming in {retry.wait:.1f} s"


def _fields(fields: struct_pb2.Value) -> list[str]:
    if not fields.HasField("struct_value"):
        return _indented(fields)
    said = json_format.MessageToDict(fields.struct_value)
    return [f"  {clean(name)}: {clean(_flat(value))}" for name, value in sorted(said.items())]


def _flat(value: object) -> str:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return " ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _indented(value: struct_pb2.Value) -> list[str]:
    # The JSON of a Value is of any type, other than the annotation of the function says.
    plain: object = json_format.MessageToDict(value)
    text = value.string_value or json.dumps(plain, indent=2, ensure_ascii=False)
    return [f"  {line}" for line in clean_lines(text.strip("\n"))]


def _heartbeat(heartbeat: pb.Heartbeat) -> str:
    if heartbeat.last_failure:
        times = counted(heartbeat.consecutive_failures, "time")
        return f"{upstream_failing(clean(heartbeat.last_failure))}, {times} in a row; still trying"
    if heartbeat.HasField("observe_time"):
        return f"unchanged, read {_ago(heartbeat.observe_time)}"
    return "not read yet"


def _ago(moment: timestamp_pb2.Timestamp) -> str:
    seconds = (datetime.now(UTC) - moment.ToDatetime(UTC)).total_seconds()
    return f"{max(0.0, seconds):.0f} s ago"
