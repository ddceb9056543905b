"""The endpoints of the REST API that the gateway uses, one attempt each."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from gateway import __version__
from gateway.errors import UpstreamMalformed
from gateway.models import JobStatus
from gateway.upstream.errors import read_error, with_status
from gateway.upstream.jobs import is_known_status, read_job, read_sent_job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.auth.credential import Credential
    from gateway.clock import PauseTimeout
    from gateway.models import Job, SendJob
    from gateway.threads import WorkerPool
    from gateway.upstream.health import UpstreamHealth
    from gateway.upstream.memory import BodyReservation
    from gateway.upstream.transport import HttpResponse, Transport

T = TypeVar("T")

COMMON = {
    "accept": "application/json",
    # Results are large and the network is fast, so compression would cost more than it saves.
    "accept-encoding": "identity",
    "user-agent": f"jobgateway/{__version__}",
}
COMMON_WITH_BODY = {**COMMON, "content-type": "application/json"}
# Larger responses are parsed in a thread, because parsing them would block the event loop for over a millisecond.
PARSE_RESPONSE_IN_THREAD_BYTES = 16 << 10
# A larger response is parsed each time, because each watched job would keep one.
MAX_KEPT_BODY_BYTES = 1 << 10


class RequestContext(msgspec.Struct, frozen=True):
    """The credential, the headers and the pause function of a request.

    Attributes:
        credential: Authorizes the request.
        headers: Are passed on from the client, such as `traceparent`.
        pause: Stops the time limit of the request while it waits for memory; see `BodyReservation`.
    """

    credential: Credential
    headers: Mapping[str, str]
    pause: PauseTimeout = nullcontext


class LastRead:
    """The last response to the reads of one job, so that an equal one need not be parsed again."""

    __slots__ = ("body", "job")

    def __init__(self) -> None:
        self.body = b""
        self.job: Job | None = None

    def read(self, body: bytes, uid: int, observe_time: float) -> Job:
        """Return the job in `body`. Raises `UpstreamMalformed`."""
        if self.job is not None and body == self.body:
            return replace(self.job, observe_time=observe_time)
        job = read_job(body, uid=uid, observe_time=observe_time)
        # Each watched job keeps one, and a result is read once.
        self.body, self.job = (body, job) if len(body) <= MAX_KEPT_BODY_BYTES and not job.done else (b"", None)
        return job


class JobObserver(Protocol):
    """Observes the jobs in responses. Its methods must be quick, and must not raise."""

    def unknown_status(self, word: str) -> None:
        """Count a job with the unknown status `word`, an untrusted text of any length."""

    def job_sent(self, job: Job, began: float) -> None:
        """Take note of a job in the response to its POST, which began at `began` (seconds since the epoch)."""

    def job_read(self, job: Job) -> None:
        """Take note of a job as it was read."""


class RestClient:
    """The REST API. Each method makes one attempt, and returns or raises its outcome.

    Args:
        base_url: the address of the API.
        submissions: the connections for POST. They are separate, because a POST must not use a connection that the
            upstream is about to close.
        reads: the connections for everything else.
        now: returns seconds since the epoch.
        observer: counts what the jobs show.
        workers: parse large responses.
        health: takes note of each outcome.
    """

    def __init__(
        self,
        base_url: str,
        *,
        submissions: Transport,
        reads: Transport,
        now: Callable[[], float],
        observer: JobObserver,
        workers: WorkerPool,
        health: UpstreamHealth,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._submissions = submissions
        self._reads = reads
        self._now = now
        self._observer = observer
        self._workers = workers
        self._health = health

    async def aclose(self) -> None:
        """Close all connections."""
        await self._submissions.aclose()
        await self._reads.aclose()

    async def send(self, job: SendJob, context: RequestContext) -> Job:
        """POST a job.

        Returns:
            A running job for HTTP 201 [ref]. For any other 2xx, the job as the body shows it, with uid 0 if it has
            ended and has no uid.

        Raises:
            UpstreamError: `may_have_been_sent` says whether the upstream may have received the request.
        """
        return await self._health.submissions.watch(self._send(job, context), (job.workspace_id, job.entity_id))

    async def _send(self, job: SendJob, context: RequestContext) -> Job:
        began = self._now()
        path = f"/workspaces/{quote(job.workspace_id, safe='')}/entities/{job.entity_id}/jobs/"
        response = await self._request(self._submissions, "POST", path, context, send_body(job))
        still_running = response.status == 201
        read = partial(read_sent_job, location=response.location, may_have_ended=not still_running)
        sent = await self._read(response, context.credential, lambda: read(response.body, observe_time=self._now()))
        sent = _still_running(sent) if still_running else sent
        self._observer.job_sent(sent, began)
        return sent

    async def get(self, uid: int, context: RequestContext, last: LastRead | None = None) -> Job:
        """GET the current state of a job [sdk]; `last` saves time if it is read again. Raises `UpstreamError`."""
        return await self._health.reads.watch(self._get(uid, context, last), uid)

    async def _get(self, uid: int, context: RequestContext, last: LastRead | None) -> Job:
        response = await self._request(self._reads, "GET", f"/jobs/{uid}/", context)
        read = (last or LastRead()).read
        job = await self._read(response, context.credential, lambda: read(response.body, uid, self._now()))
        self._observer.job_read(job)
        return job

    async def cancel(self, uid: int, context: RequestContext) -> None:
        """DELETE a job [docs], which requests its cancellation. Raises `UpstreamError`."""
        await self._health.reads.watch(self._request(self._reads, "DELETE", f"/jobs/{uid}/", context), uid)

    async def get_without_credential(self) -> int:
        """GET a job that no one has, and return the status if it is a success. Raises `UpstreamError`."""
        url = f"{self._base}/jobs/0/"
        response = await self._reads.request("GET", url, COMMON, None, owner=b"", pause=nullcontext)
        if response.reservation is not None:
            response.reservation.release()
        if not 200 <= response.status < 300:
            raise read_error(response, self._now(), str)
        return response.status

    async def _request(
        self, transport: Transport, method: str, path: str, context: RequestContext, body: bytes | None = None
    ) -> HttpResponse:
        credential = context.credential
        common = COMMON if body is None else COMMON_WITH_BODY
        authorization = await credential.headers()
        exchange = partial(
            transport.request, method, self._base + path, body=body, owner=credential.poll_key, pause=context.pause
        )
        response = await exchange({**common, **context.headers, **authorization})
        if response.status == 401 and (renewed := await credential.headers()) != authorization:
            # The token was replaced. A 401 proves that the request had no effect, so a POST may be sent again too.
            response = await exchange({**common, **context.headers, **renewed})
        if not 200 <= response.status < 300:
            raise await self._parse_off_loop(response, lambda: read_error(response, self._now(), credential.redact))
        return response

    async def _read(self, response: HttpResponse, credential: Credential, read: Callable[[], Job]) -> Job:
        job: Job | None = None
        try:
            job = await self._parse_off_loop(response, read)
        except UpstreamMalformed as error:
            raise with_status(error, response) from error
        finally:
            if response.reservation is not None:
                _release_with(response.reservation, job)
        if not is_known_status(job.status_text):
            # Redacted, in case the upstream echoes the credential.
            self._observer.unknown_status(credential.redact(job.status_text))
        return job

    async def _parse_off_loop(self, response: HttpResponse, read: Callable[[], T]) -> T:
        return await self._workers.run(read) if len(response.body) > PARSE_RESPONSE_IN_THREAD_BYTES else read()


def _release_with(reservation: BodyReservation, job: Job | None) -> None:
    """Release the memory when the result of the job is freed, or now if there is no result."""
    if job is None or job.result is None:
        reservation.release()
    else:
        weakref.finalize(job.result, reservation.release)


def _still_running(job: Job) -> Job:
    # A 201 means that the job has not ended [ref], whatever its status says.
    if not job.done and job.error is None and job.complete_time is None:
        return job
    return replace(job, status=JobStatus.RUNNING, done=False, error=None, result=None, complete_time=None)


def send_body(job: SendJob) -> bytes:
    """Return the body of the POST: only the fields that are set, `params` and `arguments` byte for byte."""
    members: dict[str, bytes] = {}
    for name in ("poll_result", "method_name", "method_type", "editor_session", "timeout", "method"):
        value = getattr(job, name)
        if value is not None:
            members[name] = msgspec.json.encode(value)
    if job.events:
        members["events"] = msgspec.json.encode(job.events)
    if job.params is not None:
        members["params"] = job.params
    if job.arguments is not None:
        members["arguments"] = job.arguments
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), value) for name, value in members.items())
