"""The servicer: one short method per RPC. Answers are encoded messages."""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, NoReturn

import structlog
from jobgateway.v1 import job_service_pb2 as pb

from gateway.clock import sleep_until
from gateway.errors import (
    GatewayError,
    NoStateYet,
    RequestInvalid,
    SubmitOutcomeUnknown,
    UpstreamError,
    UpstreamStatusError,
)
from gateway.models import Job, JobStatus
from gateway.rpc.call import cancelled_by_client
from gateway.rpc.codec.content import read_format
from gateway.rpc.codec.events import JobState, join_buffers, size_of
from gateway.rpc.codec.requests import (
    read_heartbeat_interval,
    read_request_id,
    read_send_job,
    read_uid,
    read_wait_timeout,
)
from gateway.rpc.poller import JobPoller
from gateway.rpc.status import mapping_for
from gateway.rpc.stream import EventStream, read_resume_point
from gateway.submit import IdempotencyKey, fingerprint_of
from gateway.threads import REQUEST_WORKERS
from gateway.watch import NoChange, Refusals, WatchKey, is_uncertain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from gateway.clock import Clock
    from gateway.limits.response_memory import ResponseMemory
    from gateway.models import SendJob
    from gateway.rpc.call import Call
    from gateway.rpc.stream import DeliveryObserver
    from gateway.submit import Submission, SubmissionResult, Submitter
    from gateway.upstream import RestClient
    from gateway.watch import Hub, SentJobs, Watcher

# The longest wait without a timeout: below the idle timeouts of common proxies, which begin at 50 seconds.
DEFAULT_WAIT_SECONDS = 40.0
# What is kept of a deadline so that the answer arrives before it: a tenth, within these bounds.
DEADLINE_MARGIN_SECONDS = (0.05, 1.0)
# The waits between attempts to cancel a job whose caller has left, in seconds; the last one is repeated.
CANCEL_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
# Part by which these waits differ at random, because callers that left together must not ask in lockstep.
CANCEL_JITTER = 0.2
# How long the gateway tries to cancel such a job, in seconds.
CANCEL_RETRY_SECONDS = 600.0
# Reading a larger request takes long enough for other calls to notice.
PARSE_REQUEST_IN_THREAD_BYTES = 16 << 10

_log = structlog.get_logger()


class JobService:
    """The methods of `jobgateway.v1.JobService`, for `Boundary` to make handlers of.

    Large results and messages are, in `response_memory`, the poll key's under which they were read.
    """

    def __init__(
        self,
        *,
        rest: RestClient,
        hub: Hub[JobState],
        submitter: Submitter,
        sent_jobs: SentJobs,
        clock: Clock,
        response_memory: ResponseMemory,
        observer: DeliveryObserver,
    ) -> None:
        self._response_memory = response_memory
        self._observer = observer
        self._rest = rest
        self._hub = hub
        self._submitter = submitter
        self._sent_jobs = sent_jobs
        self._clock = clock
        self._cancellations: set[asyncio.Task[None]] = set()

    async def SendJob(self, request: pb.SendJobRequest, call: Call) -> bytes:
        """One POST, or the job of an earlier one under the same request_id."""
        content_format = read_format(request.content_format, streaming=False)
        with await self._submit(request, call) as submission:
            # Before the first byte of the POST, so that no proxy or library repeats the call automatically.
            await call.begin_stream()
            sent = await submission.outcome()
        # A job without a uid had ended already, and no later read can name it.
        call.uid = sent.uid or None
        state = JobState(sent.job) if sent.job is not None else await self._try_read(sent.uid, call)
        return await self._answer(state, sent.uid, content_format, call)

    async def GetJob(self, request: pb.GetJobRequest, call: Call) -> bytes:
        """Read the job with one GET."""
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
        with self._watch(call.uid, call, seen=stream.has_seen, exists=stream.has_begun) as watcher:
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
                await stream.run_with_heartbeats(submission.task)
                sent = await submission.outcome()
            stream.uid = sent.uid
            call.uid = sent.uid or None
            await stream.begin(await self._first_state(sent, call, stream))
            if not stream.ended:
                with self._watch(sent.uid, call, seen=stream.has_seen, just_submitted=True, exists=True) as watcher:
                    await stream.follow(watcher)
        except asyncio.CancelledError:
            if request.cancel_on_disconnect and cancelled_by_client() and not call.aborted_by_server:
                self._cancel_after_submission(submission, call)
            raise

    async def CancelJob(self, request: pb.CancelJobRequest, call: Call) -> bytes:
        """Ask for the cancellation with DELETE, then read the state."""
        uid = call.uid = read_uid(request.uid)
        try:
            state = await self._cancel(uid, call) or await self._try_read(uid, call)
        except UpstreamError as error:
            self._raise_told(error, uid, call)
        return await self._answer(state, uid, pb.CONTENT_FORMAT_NONE, call)

    async def aclose(self) -> None:
        """Return when all submissions and cancellations that were begun have ended.

        If this is cancelled, the cancellations are given up.
        """
        try:
            await self._submitter.aclose()
            while self._cancellations:
                await asyncio.wait(self._cancellations)
        finally:
            for task in self._cancellations:
                task.cancel()

    async def _submit(self, request: pb.SendJobRequest, call: Call) -> Submission:
        request_id = read_request_id(request.request_id)
        machine_retry = None if request_id else call.machine_retry()
        if machine_retry is not None:
            raise SubmitOutcomeUnknown(
                f"a client library or a proxy repeated this call automatically ({machine_retry}), and an earlier "
                "attempt may have sent the job; this one sent nothing. Turn off automatic retries of SendJob and "
                "RunJob, or set a request_id, under which a repeated call is safe",
                None,
            )
        if request.ByteSize() > PARSE_REQUEST_IN_THREAD_BYTES:
            job, fingerprint = await REQUEST_WORKERS.run(partial(_read_request, request, request_id))
        else:
            job, fingerprint = _read_request(request, request_id)

        async def post() -> Job:
            with call.span.submission(call.headers) as headers:
                try:
                    sent = await self._rest.send(job, call.credential, headers)
                except UpstreamStatusError as error:
                    raise error.of_submission() from None
            # At once, because clients that learn the uid may ask for the job before the upstream shows it.
            if sent.uid:
                self._sent_jobs.remember(sent.uid, job.timeout)
            return sent

        key = IdempotencyKey(call.credential.caller_key, request_id) if request_id else None
        return self._submitter.submit(post, call.credential.caller_key, key, fingerprint)

    def _stream(
        self, call: Call, uid: int, content_format: pb.ContentFormat.ValueType, heartbeat: float
    ) -> EventStream:
        owner = call.credential.poll_key
        return EventStream(
            call, uid, content_format, heartbeat, self._clock, self._response_memory, owner, self._observer
        )

    async def _answer(
        self, state: JobState | None, uid: int, content_format: pb.ContentFormat.ValueType, call: Call
    ) -> bytes:
        """The encoded `Job` of a state, or of the uid alone where there is none."""
        if state is None:
            return pb.Job(uid=uid).SerializeToString()
        encoded = await state.encode(content_format, streaming=False)
        if state.is_large:
            room = await self._response_memory.acquire(call.credential.poll_key, size_of(encoded.buffers))
            if room is not None:
                call.on_sent(room.release)
        return await join_buffers(encoded.buffers)

    async def _read(self, uid: int, call: Call) -> JobState:
        try:
            return JobState(await self._rest.get(uid, call.credential, call.headers))
        except UpstreamError as error:
            self._raise_told(error, uid, call)

    async def _try_read(self, uid: int, call: Call) -> JobState | None:
        # What was asked for is done by now, and a state that cannot be read takes nothing of that back.
        try:
            return JobState(await self._rest.get(uid, call.credential, call.headers))
        except UpstreamError:
            return None

    def _raise_told(self, error: UpstreamError, uid: int, call: Call) -> NoReturn:
        """Raise `error`, or `NoStateYet` instead of a refusal of a job that was sent a moment ago."""
        if not error.job_shown and is_uncertain(self._sent_jobs.find(uid), error, self._clock.monotonic()):
            raise _not_certain(error) from error
        # Not from itself: an error that is its own cause lives until the next garbage collection.
        raise error

    async def _cancel(self, uid: int, call: Call) -> JobState | None:
        """Ask for the cancellation of a job; return its state if that was refused because it has ended."""
        try:
            await self._rest.cancel(uid, call.credential, call.headers)
        except UpstreamError as error:
            # Upstreams refuse to cancel a job that has ended in many ways, and its caller has what it wanted.
            state = await self._try_read(uid, call) if error.may_have_been_sent else None
            error.job_shown = state is not None
            if state is None or not state.job.done:
                raise
            return state
        return None

    async def _first_state(self, sent: SubmissionResult, call: Call, stream: EventStream) -> JobState:
        if sent.job is not None:
            return JobState(sent.job)
        reading = asyncio.get_running_loop().create_task(self._try_read(sent.uid, call))
        try:
            state = await stream.run_with_heartbeats(reading)
        finally:
            reading.cancel()
        return state or JobState(Job(sent.uid, JobStatus.RUNNING, "", done=False, observe_time=self._clock.time()))

    def _watch(
        self,
        uid: int,
        call: Call,
        seen: Callable[[JobState], bool] | None = None,
        *,
        just_submitted: bool = False,
        exists: bool = False,
    ) -> AbstractContextManager[Watcher[JobState]]:
        poller = JobPoller(self._rest, uid, call, self._clock)
        return self._hub.watch(_key(uid, call), poller, seen, just_submitted=just_submitted, exists=exists)

    def _cancel_after_submission(self, submission: Submission, call: Call) -> None:
        async def cancel() -> None:
            try:
                # Not as a caller: if nothing was sent yet, nothing need be.
                sent = await submission.outcome()
                if sent.uid:
                    await self._cancel_with_retries(sent.uid, call)
            except GatewayError as error:
                # There is nobody left to tell but the log.
                _log.warning("cancel_on_disconnect failed", uid=call.uid, reason=mapping_for(error).reason, **call.ids)
            else:
                _log.info("cancelled on disconnect", uid=sent.uid, **call.ids)

        task = asyncio.get_running_loop().create_task(cancel())
        self._cancellations.add(task)
        task.add_done_callback(self._cancellations.discard)

    async def _cancel_with_retries(self, uid: int, call: Call) -> None:
        # Unlike the callers of CancelJob, nobody is there to try again.
        refusals = Refusals(self._sent_jobs.find(uid), exists=True)
        shown = False
        give_up = self._clock.monotonic() + CANCEL_RETRY_SECONDS
        for wait in chain(CANCEL_WAITS, repeat(CANCEL_WAITS[-1])):
            try:
                await self._cancel(uid, call)
            except UpstreamError as error:
                now = self._clock.monotonic()
                if error.job_shown and not shown:
                    # That the job was just sent explains no refusal any more. A second one confirms it all the same.
                    refusals, shown = Refusals(None, exists=True), True
                if refusals.count(error, now) or now >= give_up:
                    raise
                jitter = random.uniform(1 - CANCEL_JITTER, 1 + CANCEL_JITTER)  # noqa: S311 - no secret
                asked = error.retry_after or 0.0 if error.transient else 0.0
                await sleep_until(self._clock, min(give_up, now + max(wait * jitter, asked)))
            else:
                return


def _key(uid: int, call: Call) -> WatchKey:
    return WatchKey(call.credential.poll_key, uid)


def _not_certain(error: UpstreamError) -> NoStateYet:
    status = f" (HTTP {error.http_status})" if error.http_status else ""
    return NoStateYet(f"the upstream does not show the job so far{status}, which is not certain yet; call again")


def _read_request(request: pb.SendJobRequest, request_id: str) -> tuple[SendJob, bytes]:
    job = read_send_job(request)
    return job, fingerprint_of(job) if request_id else b""


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
    while not isinstance(update := await watcher.next(until), NoChange):
        if update.last:
            return update.state
    if watcher.latest is not None:
        return watcher.latest
    if update.last_failure is None:
        raise NoStateYet("the time of the wait was over before the job could be read; call again")
    # A refusal that did not end the wait is not certain.
    raise update.last_failure if update.last_failure.transient else _not_certain(update.last_failure)
