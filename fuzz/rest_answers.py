"""Any response of the upstream to GET, POST and DELETE becomes a job that can be sent, or an error of the table.

Input: the method, the HTTP status (two bytes), a `Retry-After` up to a line feed, and the body.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from jobgateway.v1 import job_service_pb2 as pb

from gateway.auth.credential import Credential
from gateway.errors import UpstreamError, UpstreamMalformed
from gateway.models import MAX_INT64, MAX_TEXT_BYTES, JobStatus, SendJob
from gateway.rpc.codec.events import encode_job
from gateway.rpc.status import to_rpc_error
from gateway.telemetry.jobs import ObservedJobs
from gateway.telemetry.metrics import Metrics
from gateway.threads import WorkerPool
from gateway.upstream import RequestContext, RestClient
from tests.support.clock import SteppedClock
from tests.support.error_table import check_error
from tests.support.transports import http_response, upstream_health

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gateway.models import Job
    from gateway.upstream.transport import HttpResponse

Returned = TypeVar("Returned")

UID = 42
TOKEN = "vktrpat_fuzzed"  # noqa: S105 - made up
CONTEXT = RequestContext(Credential(TOKEN), {})
JOB = SendJob(workspace_id="1", entity_id=7)


class Canned:
    """A `Transport` without sockets."""

    response = http_response(200)

    async def request(self, *_: object, **__: object) -> HttpResponse:
        """Return the response immediately."""
        return self.response


_canned: Any = Canned()
_rest = RestClient(
    "http://upstream",
    submissions=_canned,
    reads=_canned,
    now=lambda: 1_700_000_000.0,
    observer=ObservedJobs(Metrics()),
    workers=WorkerPool("responses", 1),
    health=upstream_health(SteppedClock()),
)


def check(data: bytes) -> None:
    """Read one response as each method does."""
    if len(data) < 3:
        return
    method, status = ["GET", "POST", "DELETE"][data[0] % 3], 200 + int.from_bytes(data[1:3], "big") % 400
    retry_after, _, body = data[3:].partition(b"\n")
    _canned.response = http_response(status, body, retry_after=retry_after.decode("latin-1") or None)
    try:
        job = _outcome(method)
    except UpstreamError as error:
        _check_error(error, status, body, method)
    else:
        assert 200 <= status < 300
        if job is not None:
            _check_job(job, body, sent=method == "POST", status=status)


def _outcome(method: str) -> Job | None:
    if method == "GET":
        return _run(_rest.get(UID, CONTEXT))
    if method == "POST":
        return _run(_rest.send(JOB, CONTEXT))
    _run(_rest.cancel(UID, CONTEXT))
    return None


def _run(coroutine: Coroutine[Any, Any, Returned]) -> Returned:
    # The coroutine never waits.
    try:
        coroutine.send(None)
    except StopIteration as end:
        returned: Returned = end.value
        return returned
    raise AssertionError("it waits")


def _check_error(error: UpstreamError, status: int, body: bytes, method: str) -> None:
    ending = to_rpc_error(error, UID)
    details = dict(ending.trailers)["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    check_error(ending.code, ending.message, details)
    assert TOKEN not in ending.message
    assert TOKEN.encode() not in details
    wait = error.retry_after
    assert wait is None or 0 <= wait <= 86_400
    if 200 <= status < 300:
        assert isinstance(error, UpstreamMalformed)
        assert method != "DELETE", "success of a DELETE needs no body"
        value = _strict(body)
        if isinstance(value, dict) and value.get("uid") == UID and type(value["uid"]) is int:
            assert not isinstance(value.get("status"), str), "it is the job that was asked for"


def _check_job(job: Job, body: bytes, *, sent: bool, status: int) -> None:
    assert job.uid == UID or (sent and 0 <= job.uid <= MAX_INT64)
    assert job.uid or (job.done and job.status is not JobStatus.UNSPECIFIED)
    assert not (sent and status == 201 and job.done)
    assert job.done or job.result is None
    for content_format in (pb.CONTENT_FORMAT_UNSPECIFIED, pb.CONTENT_FORMAT_STRUCT, pb.CONTENT_FORMAT_JSON):
        message = pb.Job.FromString(b"".join(encode_job(job, content_format, streaming=True).buffers))
        assert message.uid == job.uid
        if content_format == pb.CONTENT_FORMAT_JSON and job.result is not None:
            assert message.content_json == bytes(job.result.json)
            assert message.content_json in body
    value = _strict(body)
    if value is None:
        return
    assert isinstance(value, dict)
    if job.result is not None:
        assert _strict(bytes(job.result.json)) in (value.get("result"), value.get("content"))
    if isinstance(value.get("status"), str):
        text = value["status"].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert job.status_text == text[: MAX_TEXT_BYTES + 1]


def _strict(body: bytes) -> Any:
    """Return the value of strict JSON, or None."""
    try:
        return json.loads(body.decode(), parse_constant=_refuse, parse_int=_small, parse_float=str)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(name)


def _small(text: str) -> int | str:
    return int(text) if len(text) < 20 else text
