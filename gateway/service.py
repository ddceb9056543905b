"""The servicer: one short method per RPC. Answers are encoded messages."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog
from jobgateway.v1 import job_service_pb2 as pb

from gateway.call import left_by_caller
from gateway.clock import sleep_until
from gateway.content import read_format
from gateway.domain import Job, JobStatus
from gateway.errors import (
    GatewayError,
    NoStateYet,
    RequestInvalid,
    SubmitOutcomeUnknown,
    UpstreamAnswered,
    UpstreamError,
)
from gateway.events import JobState, in_one_piece, size_of
from gateway.fetch import Fetch
from gateway.status import row_of
from gateway.stream import EventStream, read_resume_point
from gateway.submit import RecordKey, fingerprint
from gateway.threads import REQUESTS
from gateway.translate import (
    read_heartbeat_interval,
    read_request_id,
    read_send_job,
    read_uid,
    read_wait_timeout,
)
from gateway.watch import Key, Quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from gateway.call import Call
    from gateway.clock import Clock
    from gateway.domain import SendJob
    from gateway.outgoing import Outgoing
    from gateway.rest import RestClient
    from gateway.stream import Observer
    from gateway.submit import Sent, Submission, Submitter
    from gateway.watch import Hub, Watcher

# The longest wait without a timeout: below the idle timeouts of common proxies, which begin at 50 seconds.
DEFAULT_WAIT_SECONDS = 40.0
# What is kept of a deadline so that the answer arrives before it: a tenth, within these bounds.
DEADLINE_MARGIN_SECONDS = (0.05, 1.0)
# Between the attempts to cancel a job whose caller has left, in seconds.
CANCEL_WAITS = (0.5, 2.0, 8.0)
# Reading a larger request takes long enough for other calls to notice.
READ_IN_THREAD_BYTES = 16 << 10

_log = structlog.get_logger()


class JobService:
    """The methods of `jobgateway.v1.JobService`, for `Boundary` to make handlers of.

    Large results and messages are, in `outgoing`, the poll key's under which they were read.
    """

    def __init__(
        self,
        *,
        rest: RestClient,
        hub: Hub[JobState],
        submitter: Submitter,
        clock: Clock,
        outgoing: Outgoing,
        observer: Observer,
    ) -> None:
        self._outgoing = outgoing
        self._observer = observer
        self._rest = rest
        self._hub = hub
        self._submitter = submitter
        self._clock = clock
        self._cancellations: set[asyncio.Task[None]] = set()

    async def SendJob(self, request: pb.SendJobRequest, call: Call) -> bytes:
        """One POST, or the job of an earlier one under the same request_id."""
        content_format = read_format(request.content_format, streaming=False)
        with await self._submit(request, call) as submission:
            # Before the first byte of the POST: after it, no proxy and no library sends the call again by itself.
            await call.begin_stream()
            sent = await submission.outcome()
        # A job without a uid had ended already, and no later read can name it.
        call.uid = sent.uid or None
        state = JobState(sent.job) if sent.job is not None else await self._read_or_none(sent.uid, call)
        return await self._answer(state, sent.uid, content_format, call)

    async def GetJob(self, request: pb.GetJobRequest, call: Call) -> bytes:
        """One GET."""
        content_format = read_format(request.content_format, streaming=False)
        call.uid = read_uid(request.uid)
        return await self._answer(await self._read(call.uid, call), call.uid, content_format, call)

    async def WatchJob(self, request: pb.WatchJobRequest, call: Call) -> None:
        """Streams the job's states from the hub."""
        content_format = read_format(request.content_format, streaming=True)
        call.uid = read_uid(request.uid)
        heartbeat = read_heartbeat_interval(
            request.heartbeat_interval if request.HasField("heartbeat_interval") else None
        )
        point = read_resume_point(request.resume_token, call.uid)
        await call.begin_stream()
        stream = self._stream(call, call.uid, content_format, heartbeat)
        stream.resume(point, request.resume_token)
        with self._watch(call.uid, call, seen=stream.has_seen) as watcher:
            await stream.follow(watcher)

    async def WaitJob(self, request: pb.WaitJobRequest, call: Call) -> bytes:
        """The done job, or the latest state when the time is over."""
        content_format = read_format(request.content_format, streaming=False)
        call.uid = read_uid(request.uid)
        timeout = read_wait_timeout(request.timeout if request.HasField("timeout") else None)
        if timeout == 0:
            state = await self._read(call.uid, call)
        else:
            until = self._clock.monotonic() + wait_seconds(timeout, call.remaining())
            with self._watch(call.uid, call) as watcher:
                state = await _wait(watcher, until)
        return await self._answer(state, call.uid, content_format, call)

    async def RunJob(self, request: pb.RunJobRequest, call: Call) -> None:
        """Sends the job, then streams its states from the hub."""
        if not request.HasField("request"):
            raise RequestInvalid("request", "it is required: the job to send")
        with _within("request"):
            content_format = read_format(request.request.content_format, streaming=True)
        heartbeat = read_heartbeat_interval(
            request.heartbeat_interval if request.HasField("heartbeat_interval") else None
        )
        with _within("request"):
            submission = await self._submit(request.request, call)
        try:
            stream = self._stream(call, 0, content_format, heartbeat)
            with _within("request"), submission:
                await call.begin_stream()
                await stream.beat_until(submission.task)
                sent = await submission.outcome()
            stream.uid = sent.uid
            call.uid = sent.uid or None
            await stream.begin(await self._first_state(sent, call, stream))
            if not stream.ended:
                with self._watch(sent.uid, call, seen=stream.has_seen, fresh=True) as watcher:
                    await stream.follow(watcher)
        except asyncio.CancelledError:
            if request.cancel_on_disconnect and left_by_caller() and not call.cut_off:
                self._cancel_when_sent(submission, call)
            raise

    async def CancelJob(self, request: pb.CancelJobRequest, call: Call) -> bytes:
        """DELETE, then the state read right after."""
        uid = call.uid = read_uid(request.uid)
        try:
            await self._rest.cancel(uid, call.credential, call.headers)
        except UpstreamAnswered as error:
            # A job that has ended cannot be cancelled, which is what its caller wanted all the same.
            state = await self._read_or_none(uid, call) if error.http_status in (404, 409) else None
            if state is None or not state.job.done:
                raise
        else:
            state = await self._read_or_none(uid, call)
        return await self._answer(state, uid, pb.CONTENT_FORMAT_NONE, call)

    async def aclose(self) -> None:
        """Returns when all submissions and cancellations that were begun have ended."""
        await self._submitter.aclose()
        while self._cancellations:
            await asyncio.wait(self._cancellations)

    async def _submit(self, request: pb.SendJobRequest, call: Call) -> Submission:
        request_id = read_request_id(request.request_id)
        if call.machine_retry is not None and not request_id:
            raise SubmitOutcomeUnknown(
                f"a client library or a proxy repeated this call by itself ({call.machine_retry}), and an earlier "
                "attempt may have sent the job; this one sent nothing. Turn off automatic retries of SendJob and "
                "RunJob, or set a request_id, under which a repeated call is safe",
                None,
            )
        if request.ByteSize() > READ_IN_THREAD_BYTES:
            job, mark = await REQUESTS.run(partial(_read_request, request, request_id))
        else:
            job, mark = _read_request(request, request_id)

        async def post() -> Job:
            with call.span.submission(call.headers) as headers:
                return await self._rest.send(job, call.credential, headers)

        key = RecordKey(call.credential.caller_key, request_id) if request_id else None
        return self._submitter.submit(post, call.credential.caller_key, key, mark)

    def _stream(
        self, call: Call, uid: int, content_format: pb.ContentFormat.ValueType, heartbeat: float
    ) -> EventStream:
        owner = call.credential.poll_key
        return EventStream(call, uid, content_format, heartbeat, self._clock, self._outgoing, owner, self._observer)

    async def _answer(
        self, state: JobState | None, uid: int, content_format: pb.ContentFormat.ValueType, call: Call
    ) -> bytes:
        """The encoded `Job` of a state, or of the uid alone where there is none."""
        if state is None:
            return pb.Job(uid=uid).SerializeToString()
        encoded = await state.encode(content_format, streaming=False)
        if state.is_large:
            room = await self._outgoing.take(call.credential.poll_key, size_of(encoded.pieces))
            if room is not None:
                call.when_sent(room.release)
        return await in_one_piece(encoded.pieces)

    async def _read(self, uid: int, call: Call) -> JobState:
        return JobState(await self._rest.get(uid, call.credential, call.headers))

    async def _read_or_none(self, uid: int, call: Call) -> JobState | None:
        # For where what was asked for is done by now: a state that cannot be read takes nothing of that back.
        try:
            return await self._read(uid, call)
        except UpstreamError:
            return None

    async def _first_state(self, sent: Sent, call: Call, stream: EventStream) -> JobState:
        if sent.job is not None:
            return JobState(sent.job)
        reading = asyncio.get_running_loop().create_task(self._read_or_none(sent.uid, call))
        try:
            state = await stream.beat_until(reading)
        finally:
            reading.cancel()
        return state or JobState(Job(sent.uid, JobStatus.RUNNING, "", done=False, observe_time=self._clock.time()))

    def _watch(
        self, uid: int, call: Call, seen: Callable[[JobState], bool] | None = None, *, fresh: bool = False
    ) -> AbstractContextManager[Watcher[JobState]]:
        fetch = Fetch(self._rest, uid, call, self._clock)
        return self._hub.watch(Key(call.credential.poll_key, uid), fetch, seen, fresh=fresh)

    def _cancel_when_sent(self, submission: Submission, call: Call) -> None:
        async def cancel() -> None:
            try:
                # Not as a caller: if nothing was sent yet, nothing need be.
                sent = await submission.outcome()
                if sent.uid:
                    await self._cancel_patiently(sent.uid, call)
            except GatewayError as error:
                # There is nobody left to tell but the log.
                _log.warning("cancel_on_disconnect failed", uid=call.uid, reason=row_of(error).reason, **call.ids)
            else:
                _log.info("cancelled on disconnect", uid=sent.uid, **call.ids)

        task = asyncio.get_running_loop().create_task(cancel())
        self._cancellations.add(task)
        task.add_done_callback(self._cancellations.discard)

    async def _cancel_patiently(self, uid: int, call: Call) -> None:
        # Unlike the callers of CancelJob, nobody is there to try again.
        for wait in CANCEL_WAITS:
            try:
                await self._rest.cancel(uid, call.credential, call.headers)
            except UpstreamError as error:
                if not error.passing:
                    raise
                await sleep_until(self._clock, self._clock.monotonic() + max(wait, error.retry_after or 0.0))
            else:
                return
        await self._rest.cancel(uid, call.credential, call.headers)


def _read_request(request: pb.SendJobRequest, request_id: str) -> tuple[SendJob, bytes]:
    job = read_send_job(request)
    return job, fingerprint(job) if request_id else b""


@contextmanager
def _within(field: str) -> Iterator[None]:
    """What is invalid here, is so within `field` of the request."""
    try:
        yield
    except RequestInvalid as error:
        raise error.within(field) from error


def wait_seconds(timeout: float | None, remaining: float | None) -> float:
    """Return how long a wait lasts: its `timeout`, or 40 seconds, cut short before the call's deadline.

    `remaining` is the time until that deadline in seconds, None if the call has none.
    """
    wanted = DEFAULT_WAIT_SECONDS if timeout is None else timeout
    if remaining is None:
        return wanted
    least, most = DEADLINE_MARGIN_SECONDS
    return min(wanted, max(0.0, remaining - min(most, max(least, remaining / 10))))


async def _wait(watcher: Watcher[JobState], until: float) -> JobState:
    while not isinstance(update := await watcher.next(until), Quiet):
        if update.last:
            return update.state
    if watcher.loop.state is not None:
        return watcher.loop.state
    raise update.last_failure or NoStateYet("the time of the wait was over before the job could be read; call again")
