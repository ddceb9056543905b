"""The requests of the steps, and the lines that report the observations (clients/README.md)."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from typing import Any

from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import Action, GatewayError, Retry, WatchFailed, action

# The words of the protocol between the runner and a client.
_ACTIONS = {
    Action.RETRY: "retry",
    Action.FIX: "fix",
    Action.LOG_IN: "login",
    Action.LOOK: "look",
    Action.GIVE_UP: "give_up",
}


_OUTPUT = threading.Lock()


class Login:
    """The tokens: the first one, and from then on the one that a new login returns."""

    def __init__(self) -> None:
        self._next = os.environ["JOBGATEWAY_TOKEN"]

    def __call__(self) -> str:
        """Log in."""
        token, self._next = self._next, os.environ["JOBGATEWAY_FRESH_TOKEN"]
        return token


class Reporter:
    """Prints the observations of one step, a line of JSON for each.

    Attributes:
        lines: The number of lines.

    """

    def __init__(self, step: str) -> None:
        self.lines = 0
        self._step = step
        self._held = 0

    def event(self, event: pb.JobEvent, result: bytes) -> None:
        """Report an event of a watch, and what it made of the result."""
        match event.WhichOneof("payload"):
            case "job":
                self.job(event.job, result)
            case "content_chunk":
                chunk = event.content_chunk
                self._line(chunk={"offset": chunk.offset, "size": len(chunk.data), "held": self._held})
                self._held = len(result)
            case "heartbeat":
                beat = event.heartbeat
                self._line(
                    heartbeat={"consecutive_failures": beat.consecutive_failures, "last_failure": beat.last_failure}
                )

    def job(self, job: pb.Job, result: bytes = b"") -> None:
        """Report a state of the job."""
        shown = {
            "uid": str(job.uid),
            "status": pb.JobStatus.Name(job.status),
            "done": job.done,
            "message": job.progress.message,
            "percentage": job.progress.percentage,
            "error_message": job.error.message,
        }
        self._line(job=shown | ({"result": _shown_result(job, result)} if job.done else {}))

    def resumption(self, retry: Retry) -> None:
        """Report that a watch resumes."""
        self._line(resume=_shown_resumption(retry))

    def retry(self, retry: Retry) -> None:
        """Report an error after which the call is made again."""
        self.error(retry.error)

    def error(self, error: GatewayError) -> None:
        """Report an error."""
        self._line(
            error={
                "code": error.code.name,
                "reason": error.reason,
                "action": _ACTIONS[action(error)],
                "fields": dict(error.fields),
                "retry_after_seconds": error.retry_delay,
            }
        )

    def _line(self, **seen: object) -> None:
        self.lines += 1
        with _OUTPUT:
            sys.stdout.write(json.dumps({"do": self._step, **seen}) + "\n")
            sys.stdout.flush()


class EachReporter(Reporter):
    """Prints the observations about one job of a `watch_each`."""

    def __init__(self, uid: int) -> None:
        super().__init__("watch_each")
        self._uid = {"uid": str(uid)}

    def _line(self, **seen: Any) -> None:
        super()._line(**{kind: self._uid | about for kind, about in seen.items()})


class ManyReporter(Reporter):
    """Prints the observations of a `watch_all`."""

    def __init__(self, step: dict[str, Any]) -> None:
        super().__init__(step["do"])
        self._pause_after: int | None = step.get("pause_after")
        self._pause_seconds: int = step.get("pause_seconds", 0)
        self._chunks: dict[int, int] = {}
        self._succeeded = self._failed = self._errors = 0

    def item(self, item: pb.JobEvent | WatchFailed, result: bytes) -> None:
        """Report an item, and what it made of the result of its job."""
        if isinstance(item, WatchFailed):
            self._errors += 1
            self._failure(item)
        elif item.HasField("synced"):
            self._line(synced=True)
        elif item.HasField("content_chunk"):
            chunk, held = item.content_chunk, self._chunks.get(item.uid, 0)
            self._line(chunk={"uid": str(item.uid), "offset": chunk.offset, "size": len(chunk.data), "held": held})
            self._chunks[item.uid] = len(result)
        elif item.HasField("heartbeat"):
            beat, about = item.heartbeat, {"uid": str(item.uid)} if item.uid else {}
            failures = {"consecutive_failures": beat.consecutive_failures, "last_failure": beat.last_failure}
            self._line(heartbeat=about | failures)
        else:
            self.event(item, result)
            self._succeeded += item.job.done and item.job.status == pb.JOB_STATUS_SUCCESS
            self._failed += item.job.done and item.job.status != pb.JOB_STATUS_SUCCESS

    def retried(self, retry: Retry) -> None:
        """Report that one job is watched again, or that the stream resumes with the jobs that have not ended."""
        if retry.uid:
            self._line(again={"uid": str(retry.uid), "code": retry.error.code.name, "reason": retry.error.reason})
        else:
            self._line(resume=_shown_resumption(retry) | {"jobs": retry.jobs})

    def ended(self) -> None:
        """Report the numbers of jobs by their end."""
        self._line(ended={"succeeded": self._succeeded, "failed": self._failed, "errors": self._errors})

    def pause(self) -> int:
        """Return how long to read nothing, in seconds: once, after a number of lines."""
        if self._pause_after is None or self.lines < self._pause_after:
            return 0
        self._pause_after = None
        return self._pause_seconds

    def _failure(self, failed: WatchFailed) -> None:
        error = failed.error
        shown = {"code": error.code.name, "reason": error.reason, "action": _ACTIONS[action(error)]}
        self._line(error={"uid": str(failed.uid), **shown, "retry_after_seconds": error.retry_delay})


def _shown_resumption(retry: Retry) -> dict[str, Any]:
    return {"code": retry.error.code.name, "reason": retry.error.reason, "new_connection": retry.new_connection}


def _shown_result(job: pb.Job, result: bytes) -> dict[str, Any]:
    announced = {"content_size": job.content_size, "content_sha256": job.content_sha256}
    if job.HasField("content"):
        return {"as": "struct", "sum": job.content.fields["data"].struct_value.fields["sum"].number_value, **announced}
    if not job.content_size:
        return {"as": "none"}
    form, held = ("chunks", result) if job.content_omitted else ("json", job.content_json)
    return {"as": form, "size": len(held), "sha256": hashlib.sha256(held).hexdigest(), **announced}


def run_request(step: dict[str, Any]) -> pb.RunJobRequest:
    """Return the request of a `run`."""
    request = pb.RunJobRequest(request=pb.SendJobRequest(**step["request"]))
    if "heartbeat_seconds" in step:
        request.heartbeat_interval.seconds = step["heartbeat_seconds"]
    return request


def wait_request(step: dict[str, Any], uid: int) -> pb.WaitJobRequest:
    """Return the request of a `wait`."""
    return pb.WaitJobRequest(uid=uid, timeout=Duration(seconds=step.get("timeout_seconds", 0)))


def watch_requests(step: dict[str, Any], sent: list[int]) -> list[pb.WatchJobRequest]:
    """Return the requests of a `watch_all`, for the jobs that were sent and those of the step."""
    return [watch_request(step, uid) for uid in (*sent, *map(int, step.get("uids", ())))]


def watch_request(step: dict[str, Any], uid: int) -> pb.WatchJobRequest:
    """Return the request of a `watch`."""
    chunks = pb.CONTENT_FORMAT_JSON_CHUNKS if step.get("chunks") else pb.CONTENT_FORMAT_UNSPECIFIED
    request = pb.WatchJobRequest(uid=uid, content_format=chunks)
    if "heartbeat_seconds" in step:
        request.heartbeat_interval.seconds = step["heartbeat_seconds"]
    return request
