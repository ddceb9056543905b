"""What the runner asks for, and how it is told what was seen (clients/README.md)."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from jobgateway.v1 import job_service_pb2 as pb

from jobclient.failure import LOGIN, RETRY, Failure
from jobclient.resume import Result, needs_new_connection

CALLS = 5
"""How often a unary call is made in all."""

UNARY_SECONDS = 30.0


class Reporter:
    """Prints what one step saw, a line of JSON for each observation."""

    def __init__(self, step: str) -> None:
        self._step = step
        self._result = Result()

    def event(self, event: pb.JobEvent) -> None:
        """An event of a watch."""
        match event.WhichOneof("payload"):
            case "job":
                self.job(event.job)
            case "content_chunk":
                chunk = event.content_chunk
                self._line(chunk={"offset": chunk.offset, "size": len(chunk.data), "held": len(self._result.data)})
                self._result.take(chunk)
            case "heartbeat":
                beat = event.heartbeat
                self._line(
                    heartbeat={"consecutive_failures": beat.consecutive_failures, "last_failure": beat.last_failure}
                )

    def job(self, job: pb.Job) -> None:
        """A state of the job."""
        shown = {
            "uid": str(job.uid),
            "status": pb.JobStatus.Name(job.status),
            "done": job.done,
            "message": job.progress.message,
            "percentage": job.progress.percentage,
            "error_message": job.error.message,
        }
        self._line(job=shown | ({"result": self._shown_result(job)} if job.done else {}))

    def resumption(self, failure: Failure) -> None:
        """A watch goes on after a failure."""
        self._line(
            resume={
                "code": failure.code.name,
                "reason": failure.reason,
                "new_connection": needs_new_connection(failure),
            }
        )

    def failure(self, failure: Failure) -> None:
        """A call failed."""
        self._line(
            error={
                "code": failure.code.name,
                "reason": failure.reason,
                "action": failure.action,
                "fields": failure.fields,
                "retry_after_seconds": failure.retry_after,
            }
        )

    def _shown_result(self, job: pb.Job) -> dict[str, Any]:
        announced = {"content_size": job.content_size, "content_sha256": job.content_sha256}
        if job.HasField("content"):
            return {
                "as": "struct",
                "sum": job.content.fields["data"].struct_value.fields["sum"].number_value,
                **announced,
            }
        if not job.content_size:
            return {"as": "none"}
        form, held = ("chunks", self._result.data) if job.content_omitted else ("json", job.content_json)
        return {"as": form, "size": len(held), "sha256": hashlib.sha256(held).hexdigest(), **announced}

    def _line(self, **seen: object) -> None:
        sys.stdout.write(json.dumps({"do": self._step, **seen}) + "\n")
        sys.stdout.flush()


def unary_request(step: dict[str, Any], uid: int) -> tuple[str, Any, float]:
    """The RPC of a step, its request, and its deadline in seconds."""
    match step["do"]:
        case "send":
            return "SendJob", pb.SendJobRequest(**step["request"]), UNARY_SECONDS
        case "get":
            return "GetJob", pb.GetJobRequest(uid=uid), UNARY_SECONDS
        case "cancel":
            return "CancelJob", pb.CancelJobRequest(uid=uid), UNARY_SECONDS
        case "wait":
            request = pb.WaitJobRequest(uid=uid)
            request.timeout.seconds = step.get("timeout_seconds", 0)
            return "WaitJob", request, request.timeout.seconds + UNARY_SECONDS
    raise ValueError(f"no step is called {step['do']}")


def watch_request(step: dict[str, Any], uid: int) -> pb.WatchJobRequest:
    """The request of a watch."""
    chunks = pb.CONTENT_FORMAT_JSON_CHUNKS if step.get("chunks") else pb.CONTENT_FORMAT_UNSPECIFIED
    request = pb.WatchJobRequest(uid=uid, content_format=chunks)
    if "heartbeat_seconds" in step:
        request.heartbeat_interval.seconds = step["heartbeat_seconds"]
    return request


class UnaryRetries:
    """Decides whether a unary call is made again; a submission only with a `request_id`."""

    def __init__(self, request: object) -> None:
        self._repeatable = not isinstance(request, pb.SendJobRequest) or bool(request.request_id)
        self._logged_in = False
        self._calls = 0

    def may_retry(self, failure: Failure) -> bool:
        """Whether to call again."""
        self._calls += 1
        if failure.action == LOGIN:
            first, self._logged_in = not self._logged_in, True
            return first
        return failure.action == RETRY and self._repeatable and self._calls < CALLS
