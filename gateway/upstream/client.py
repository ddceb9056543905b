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
from gateway.threads import ANSWERS
from gateway.upstream.errors import read_error
from gateway.upstream.jobs import is_known_word, read_job, read_sent_job

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.auth.credential import Credential
    from gateway.clock import Pause
    from gateway.models import Job, SendJob
    from gateway.upstream.memory import Room
    from gateway.upstream.transport import Answer, Transport

T = TypeVar("T")

COMMON = {
    "accept": "application/json",
    # Results are large and the mesh is near: compression would cost more than it saves.
    "accept-encoding": "identity",
    "user-agent": f"jobgateway/{__version__}",
}
# Larger answers are read in a thread, for reading them would hold the event loop for over a millisecond.
READ_IN_THREAD_BYTES = 16 << 10


class WordObserver(Protocol):
    """Is told of each job that was read with a status that the API is not known to use; must be quick and not raise."""

    def unknown_status(self, word: str) -> None:
        """A job has a status that is not known; `word` is foreign text of any length."""


class RestClient:
    """Makes one request at a time of its caller's, and says what came of it.

    `submissions` carries the POSTs and `reads` everything else: two pools, for a POST must not meet a connection
    that the upstream is about to close. `now` gives seconds since the epoch.
    """

    def __init__(
        self,
        base_url: str,
        *,
        submissions: Transport,
        reads: Transport,
        now: Callable[[], float],
        observer: WordObserver,
    ) -> None:
        self._base = base_url.rstrip("/")
        self._submissions = submissions
        self._reads = reads
        self._now = now
        self._observer = observer

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._submissions.aclose()
        await self._reads.aclose()

    async def send(self, job: SendJob, credential: Credential, headers: Mapping[str, str]) -> Job:
        """POSTs a job; `headers` pass through.

        Returns one that is not done for a 201 [ref], or whatever state the body of another 2xx shows: with uid 0 if it
        shows an end and names no job. Raises `UpstreamError`, whose `sent` says whether the upstream can have seen the
        request.
        """
        path = f"/workspaces/{quote(job.workspace_id, safe='')}/entities/{job.entity_id}/jobs/"
        answer = await self._request(self._submissions, "POST", path, credential, headers, send_body(job))
        goes_on = answer.status == 201
        read = partial(read_sent_job, location=answer.location, may_have_ended=not goes_on)
        sent = await self._read(answer, credential, lambda: read(answer.body, observe_time=self._now()))
        return _still_running(sent) if goes_on else sent

    async def get(
        self, uid: int, credential: Credential, headers: Mapping[str, str], pause: Pause = nullcontext
    ) -> Job:
        """GETs a job as it is now [sdk]. `pause`: see `Transport.exchange`. Raises `UpstreamError`."""
        answer = await self._request(self._reads, "GET", f"/jobs/{uid}/", credential, headers, pause=pause)
        return await self._read(answer, credential, lambda: read_job(answer.body, uid=uid, observe_time=self._now()))

    async def cancel(self, uid: int, credential: Credential, headers: Mapping[str, str]) -> None:
        """DELETEs a job [docs]: asks for its cancellation. Raises `UpstreamError`."""
        await self._request(self._reads, "DELETE", f"/jobs/{uid}/", credential, headers)

    async def _request(
        self,
        transport: Transport,
        method: str,
        path: str,
        credential: Credential,
        headers: Mapping[str, str],
        body: bytes | None = None,
        pause: Pause = nullcontext,
    ) -> Answer:
        url = self._base + path
        common = {**COMMON, **headers} if body is None else {**COMMON, "content-type": "application/json", **headers}
        authorization = await credential.headers()
        exchange = partial(transport.exchange, method, url, body=body, owner=credential.poll_key, pause=pause)
        answer = await exchange({**common, **authorization})
        if answer.status == 401 and (renewed := await credential.headers()) != authorization:
            # The token was exchanged meanwhile. A 401 is a certain refusal, so that a POST may be sent again too.
            answer = await exchange({**common, **renewed})
        if not 200 <= answer.status < 300:
            raise await _off_the_loop(answer, lambda: read_error(answer, self._now(), credential.redact))
        return answer

    async def _read(self, answer: Answer, credential: Credential, read: Callable[[], Job]) -> Job:
        job: Job | None = None
        try:
            job = await _off_the_loop(answer, read)
        except UpstreamMalformed as error:
            error.http_status = answer.status
            raise
        finally:
            if answer.room is not None:
                _release_with(answer.room, job)
        if not is_known_word(job.status_text):
            # Redacted, in case the upstream echoes the credential.
            self._observer.unknown_status(credential.redact(job.status_text))
        return job


async def _off_the_loop(answer: Answer, read: Callable[[], T]) -> T:
    return await ANSWERS.run(read) if len(answer.body) > READ_IN_THREAD_BYTES else read()


def _release_with(room: Room, job: Job | None) -> None:
    """Releases memory once nobody holds the result of the job, which lies in it; at once where there is none."""
    if job is None or job.result is None:
        room.release()
    else:
        weakref.finalize(job.result, room.release)


def _still_running(job: Job) -> Job:
    # A 201 means that the poll is not completed [ref], whatever word stands in it.
    if not job.done and job.error is None and job.complete_time is None:
        return job
    return replace(job, status=JobStatus.RUNNING, done=False, error=None, result=None, complete_time=None)


def send_body(job: SendJob) -> bytes:
    """The body of the POST: what is set and nothing else, `params` and `arguments` byte for byte."""
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
