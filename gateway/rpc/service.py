"""The service: one short method per RPC. Responses are encoded messages."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from jobgateway.v1 import job_service_pb2 as pb

from gateway.errors import (
    NoStateYet,
    RequestInvalid,
    SubmitOutcomeUnknown,
    UpstreamError,
    UpstreamStatusError,
)
from gateway.models import Job, JobStatus
from gateway.rpc.cancellations import Cancellations
from gateway.rpc.codec.content import read_format
from gateway.rpc.codec.events import JobState, join_buffers, size_of
from gateway.rpc.codec.requests import (
    read_heartbeat_interval,
    read_request_id,
    read_send_job,
    read_uid,
    read_wait_timeout,
)
from gateway.rpc.interruption import Interruption, interruption
from gateway.rpc.multi_stream import MultiStream
from gateway.rpc.poller import JobPoller
from gateway.rpc.stream import EventStream, StreamResources, read_resume_point
from gateway.rpc.upstream_jobs import UpstreamJobs, uncertain_refusal
from gateway.rpc.watch_record import recorded
from gateway.submit import fingerprint_of
from gateway.upstream import RequestContext
from gateway.watch import NoChange, WatchKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gateway.clock import Clock
    from gateway.limits.response_memory import ResponseMemory
    from gateway.models import SendJob
    from gateway.rpc.call import Call
    from gateway.rpc.many_messages import Requests
    from gateway.rpc.stream import DeliveryObserver
    from gateway.rpc.stream_watch import StreamWatch
    from gateway.submit import RequestKeys, SubmissionCall, SubmissionResult, Submitter
    from gateway.threads import WorkerPool
    from gateway.upstream import RestClient
    from gateway.watch import Group, Hub, SentJobs, Subscription, Watcher

# How long a wait without a timeout lasts: less than the idle timeouts of common proxies, which start at 50 seconds.
DEFAULT_WAIT_SECONDS = 40.0
# A wait ends before the deadline by a tenth of the remaining time, within these limits, so that the response arrives.
DEADLINE_MARGIN_SECONDS = (0.05, 1.0)
# Reading a larger request takes long enough for other calls to notice.
PARSE_REQUEST_IN_THREAD_BYTES = 16 << 10


class JobService:
    """The methods of `jobgateway.v1.JobService`; `HandlerFactory` makes handlers of them.

    In `response_memory`, large results and messages belong to the poll key of the credential that read them.
    """

    def __init__(
        self,
        *,
        rest: RestClient,
        hub: Hub[JobState],
        submitter: Submitter,
        request_keys: RequestKeys,
        sent_jobs: SentJobs,
        clock: Clock,
        response_memory: ResponseMemory,
        observer: DeliveryObserver,
        request_workers: WorkerPool,
        response_workers: WorkerPool,
    ) -> None:
        self._request_workers = request_workers
        self._response_workers = response_workers
        self._response_memory = response_memory
        self._stream_resources = StreamResources(clock, response_memory, response_workers, observer)
        self._rest = rest
        self._hub = hub
        self._submitter = submitter
        self._request_keys = request_keys
        self._sent_jobs = sent_jobs
        self._clock = clock
        self._jobs = UpstreamJobs(rest, sent_jobs, clock)
        self._cancellations = Cancellations(self._jobs, sent_jobs, clock)

    async def SendJob(self, request: pb.SendJobRequest, call: Call) -> bytes:
        """Send a job with one POST, or return the job that was sent under the same request_id."""
        content_format = read_format(request.content_format, streaming=False)
        with await self._submit(request, call) as submission:
            # Before the first byte of the POST, so that no proxy or library repeats the call.
            await call.send_headers()
            sent = await submission.outcome()
        if sent.replayed:
            call.mark_replayed()
        # A job without a uid has ended already, and cannot be read again.
        call.uid = sent.uid or None
        if sent.job is not None:
            state: JobState | None = JobState(sent.job)
        else:
            state = await self._jobs.try_read(sent.uid, call.request_context)
        return await self._encode(state, sent.uid, content_format, call)

    async def GetJob(self, request: pb.GetJobRequest, call: Call) -> bytes:
        """Read a job with one GET."""
        content_format = read_format(request.content_format, streaming=False)
        call.uid = read_uid(request.uid)
        state = await self._jobs.read(call.uid, call.request_context)
        return await self._encode(state, call.uid, content_format, call)

    async def WatchJob(self, request: pb.WatchJobRequest, call: Call) -> None:
        """Stream the states of a job from the hub."""
        content_format = read_format(request.content_format, streaming=True)
        call.uid = read_uid(request.uid)
        heartbeat = read_heartbeat_interval(request)
        point = read_resume_point(request.resume_token, call.uid)
        await call.send_headers()
        stream = EventStream(call, content_format, heartbeat, self._stream_resources)
        stream.resume(point, request.resume_token)
        with self._watch(call.uid, call, seen=stream.has_seen, exists=stream.has_begun) as watcher:
            await stream.follow(watcher)

    async def WatchJobs(self, requests: Requests[pb.WatchJobsRequest], call: Call) -> None:
        """Stream the states of many jobs from the hub."""
        await call.send_headers()

        def subscribe(watch: StreamWatch, group: Group) -> Subscription[JobState]:
            poller = JobPoller(self._rest, watch.uid, call, self._clock)
            key = WatchKey(call.credential.poll_key, watch.uid)
            seen = watch.has_seen if watch.has_begun else None
            client = call.credential.caller_key
            return self._hub.subscribe(
                key, poller, seen, watch.wake, group=group, client=client, exists=watch.has_begun
            )

        await MultiStream(call, requests, self._stream_resources, subscribe, self._hub.leave_all).run()

    async def WaitJob(self, request: pb.WaitJobRequest, call: Call) -> bytes:
        """Return the done job, or its latest state when the time is over."""
        content_format = read_format(request.content_format, streaming=False)
        call.uid = read_uid(request.uid)
        timeout = read_wait_timeout(request)
        if timeout == 0:
            state = await self._jobs.read(call.uid, call.request_context)
        else:
            until = self._clock.monotonic() + wait_seconds(timeout, call.remaining())
            with self._watch(call.uid, call) as watcher:
                state = await _wait(watcher, until)
        return await self._encode(state, call.uid, content_format, call)

    async def RunJob(self, request: pb.RunJobRequest, call: Call) -> None:
        """Send a job, then stream its states from the hub."""
        if not request.HasField("request"):
            raise RequestInvalid("request", "is required; set it to the job to send")
        with _within("request"):
            content_format = read_format(request.request.content_format, streaming=True)
        heartbeat = read_heartbeat_interval(request)
        with _within("request"):
            submission = await self._submit(request.request, call)
        try:
            stream = EventStream(call, content_format, heartbeat, self._stream_resources)
            with _within("request"), submission:
                await call.send_headers()
                await stream.run_with_heartbeats(submission.task)
                sent = await submission.outcome()
            if sent.replayed:
                call.mark_replayed()
            call.uid = sent.uid or None
            await stream.begin(await self._first_state(sent, call, stream))
            if not stream.ended:
                with self._watch(sent.uid, call, seen=stream.has_seen, just_submitted=True, exists=True) as watcher:
                    await stream.follow(watcher)
        except asyncio.CancelledError:
            # Not if this process interrupts the call, because the client can resume its watch.
            if request.cancel_on_disconnect and interruption(call) is Interruption.CLIENT_CANCELLED:
                self._cancellations.start(submission, call)
            raise

    async def CancelJob(self, request: pb.CancelJobRequest, call: Call) -> bytes:
        """Ask for the cancellation of a job with DELETE, then read its state."""
        uid = call.uid = read_uid(request.uid)
        try:
            state = await self._jobs.cancel(uid, call.request_context)
        except UpstreamError as error:
            self._jobs.raise_for_client(error, uid)
        if state is None:
            state = await self._jobs.try_read(uid, call.request_context)
        return await self._encode(state, uid, pb.CONTENT_FORMAT_NONE, call)

    async def aclose(self) -> None:
        """Return when all submissions and cancellations have ended; if cancelled, give up the cancellations."""
        try:
            await self._submitter.aclose()
            await self._cancellations.wait()
        finally:
            self._cancellations.stop()

    async def _submit(self, request: pb.SendJobRequest, call: Call) -> SubmissionCall:
        request_id = read_request_id(request.request_id)
        automatic_retry = None if request_id else call.automatic_retry()
        if automatic_retry is not None:
            raise SubmitOutcomeUnknown(
                f"a client library or a proxy repeated this call automatically ({automatic_retry}), and an earlier "
                "attempt may have sent the job; this one sent nothing. Turn off automatic retries of SendJob and "
                "RunJob, or set a request_id, which makes them safe",
                None,
            )
        if request.ByteSize() > PARSE_REQUEST_IN_THREAD_BYTES:
            job, fingerprint = await self._request_workers.run(partial(_read_request, request, request_id))
        else:
            job, fingerprint = _read_request(request, request_id)
        call.submits(job)

        async def post() -> Job:
            with call.span.submission(call.request_context.headers) as headers:
                try:
                    sent = await self._rest.send(job, RequestContext(call.credential, headers))
                except UpstreamStatusError as error:
                    raise error.of_submission() from None
            # Remember it before any await, because clients may ask for the job before the upstream shows it.
            if sent.uid:
                self._sent_jobs.remember(sent.uid, job.timeout)
            return sent

        key = self._request_keys.key_of(call.credential, request_id) if request_id else None
        credential = call.credential
        return self._submitter.submit(post, credential.caller_key, key, fingerprint, held_as=credential.poll_key)

    async def _encode(
        self, state: JobState | None, uid: int, content_format: pb.ContentFormat.ValueType, call: Call
    ) -> bytes:
        """Return the encoded `Job` of a state, or one that has only the uid if there is no state."""
        if state is None:
            return pb.Job(uid=uid).SerializeToString()
        encoded = await state.encode(content_format, self._response_workers, streaming=False)
        if state.is_large:
            reservation = await self._response_memory.acquire(call.credential.poll_key, size_of(encoded.buffers))
            if reservation is not None:
                call.on_sent(reservation.release)
        return await join_buffers(encoded.buffers, self._response_workers)

    async def _first_state(self, sent: SubmissionResult, call: Call, stream: EventStream) -> JobState:
        if sent.job is not None:
            return JobState(sent.job)
        reading = asyncio.get_running_loop().create_task(self._jobs.try_read(sent.uid, call.request_context))
        try:
            state = await stream.run_with_heartbeats(reading)
        finally:
            reading.cancel()
        return state or JobState(Job(sent.uid, JobStatus.RUNNING, "", done=False, observe_time=self._clock.time()))

    @contextmanager
    def _watch(
        self,
        uid: int,
        call: Call,
        seen: Callable[[JobState], bool] | None = None,
        *,
        just_submitted: bool = False,
        exists: bool = False,
    ) -> Iterator[Watcher[JobState]]:
        poller = JobPoller(self._rest, uid, call, self._clock)
        key = WatchKey(call.credential.poll_key, uid)
        client = call.credential.caller_key
        with (
            self._hub.watch(key, poller, seen, client=client, just_submitted=just_submitted, exists=exists) as watcher,
            recorded(watcher, uid, call, self._clock),
        ):
            yield watcher


def _read_request(request: pb.SendJobRequest, request_id: str) -> tuple[SendJob, bytes]:
    job = read_send_job(request)
    return job, fingerprint_of(job) if request_id else b""


@contextmanager
def _within(field: str) -> Iterator[None]:
    """Report invalid fields in this context as those of the message in `field`."""
    try:
        yield
    except RequestInvalid as error:
        raise error.within(field) from error


def wait_seconds(timeout: float | None, remaining: float | None) -> float:
    """Return how long a wait lasts, in seconds.

    Args:
        timeout: The time that the client asked for in seconds; None is 40 seconds.
        remaining: The time in seconds until the deadline of the call, before which the wait ends; None if it has none.
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
        raise NoStateYet("the job could not be read before the wait was over; call again")
    # A refusal that did not end the watch is not certain.
    raise update.last_failure if update.last_failure.transient else uncertain_refusal(update.last_failure)
