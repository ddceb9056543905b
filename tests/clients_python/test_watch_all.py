"""The watch of many jobs on one stream, sync and asyncio, against a scripted gateway over real sockets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import AsyncClient, Client, GatewayError, ResultDamagedError, Retry, WatchFailed, calls, rules
from jobgateway_client.rules import Backoff

from tests.support.many_jobs import (
    End,
    Hold,
    ManyJobsGateway,
    Read,
    ReadAll,
    beat,
    chunk,
    end,
    failure,
    state,
    synced,
)

CODE = grpc.StatusCode
REFUSED = failure(1, CODE.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED")
BROKEN = End(CODE.UNAVAILABLE)


class Seen:
    """The observations of one watch of many jobs.

    Attributes:
        items: A short form of each item: the uid and `end`, the percentage, the number of bytes, `failed` or the kind.
        error: The error that ended the watch, if one did.
        results: The result of each job at its end.
        pending: The number of pending jobs at each resumption.

    """

    def __init__(self) -> None:
        self.items: list[tuple[int, Any]] = []
        self.failures: dict[int, Any] = {}
        self.resumed: list[Retry] = []
        self.retried: list[Retry] = []
        self.pending: list[int] = []
        self.results: dict[int, bytes] = {}
        self.released = True
        self.error: GatewayError | None = None
        self._watch: Any = None

    def callbacks(self, on_retry: Callable[[Retry], None] | None) -> dict[str, Any]:
        return {"on_retry": on_retry or self._retrying}

    def watching(self, watch: Any) -> Any:
        self._watch = watch
        return watch

    def _retrying(self, retry: Retry) -> None:
        if retry.uid:
            self.retried.append(retry)
            return
        self.resumed.append(retry)
        self.pending.append(self._watch.pending)

    def take(self, item: pb.JobEvent | WatchFailed) -> None:
        self.released &= not any(self._watch.result(uid) for uid in self.results)
        if isinstance(item, WatchFailed):
            self.failures[item.uid] = item.error
            self.items.append((item.uid, "failed"))
        elif item.job.done:
            self.results[item.uid] = bytes(self._watch.result(item.uid))
            self.items.append((item.uid, "end"))
        elif item.HasField("job"):
            self.items.append((item.uid, item.job.progress.percentage))
        else:
            self.items.append((item.uid, item.WhichOneof("payload")))

    def of(self, uid: int) -> list[Any]:
        return [what for each, what in self.items if each == uid]


Watch = Callable[..., Any]


async def in_thread(
    target: str, uids: Any, *, timeout: float | None = None, on_retry: Any = None, **options: Any
) -> Seen:
    def run() -> Seen:
        seen = Seen()
        with Client(target, **options) as client:
            watch = seen.watching(client.watch_all(uids, timeout=timeout, **seen.callbacks(on_retry)))
            try:
                for item in watch:
                    seen.take(item)
            except GatewayError as error:
                seen.error = error
        return seen

    return await asyncio.to_thread(run)


async def in_loop(
    target: str, uids: Any, *, timeout: float | None = None, on_retry: Any = None, **options: Any
) -> Seen:
    seen = Seen()
    async with AsyncClient(target, **options) as client:
        watch = seen.watching(client.watch_all(uids, timeout=timeout, **seen.callbacks(on_retry)))
        try:
            async for item in watch:
                seen.take(item)
        except GatewayError as error:
            seen.error = error
    return seen


@pytest.fixture(params=[in_thread, in_loop])
def watch_all(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the waits that no error names short."""
    monkeypatch.setattr(Backoff, "next", lambda _, error: error.retry_delay or 0.01)


async def test_all_jobs_are_watched_on_one_stream(watch_all: Watch) -> None:
    uids = range(1, 201)
    events = [*(state(uid) for uid in uids), synced(200), beat(), *(end(uid) for uid in uids)]
    with ManyJobsGateway([Read(200), *events, ReadAll()]) as gateway:
        seen = await watch_all(gateway.target, uids, token="secret")
    assert seen.error is None
    assert all(seen.of(uid) == [10, "end"] for uid in uids)
    assert seen.of(0) == ["synced", "heartbeat"]
    [stream] = gateway.streams
    assert stream.half_closed
    assert stream.token == "Bearer secret"
    assert stream.watched == [(uid, "") for uid in uids]


async def test_no_jobs_make_no_call(watch_all: Watch) -> None:
    assert (await watch_all("127.0.0.1:1", [])).items == []


async def test_each_job_is_watched_once(watch_all: Watch) -> None:
    first = pb.WatchJobRequest(uid=1, resume_token="earlier", heartbeat_interval=Duration(seconds=7))
    with ManyJobsGateway([Read(2), end(1), end(2), ReadAll()]) as gateway:
        seen = await watch_all(gateway.target, [first, 2, 1])
    assert seen.items == [(1, "end"), (2, "end")]
    [stream] = gateway.streams
    assert stream.watched == [(1, "earlier"), (2, "")]
    # Any of them may be the first on a later stream.
    assert [each.watch.heartbeat_interval.seconds for each in stream.requests] == [7, 7]


async def test_a_broken_stream_resumes_the_jobs_that_have_not_ended(watch_all: Watch) -> None:
    scripts = (
        [Read(4), state(1), end(2), state(3), state(3, percentage=20), BROKEN],
        [Read(3), state(4), End(CODE.UNAVAILABLE, "DRAINING")],
        [Read(3), end(1), end(4)],
        [Read(1), end(3), ReadAll()],
    )
    with ManyJobsGateway(*scripts) as gateway:
        seen = await watch_all(gateway.target, [1, 2, 3, 4])
    assert [seen.of(uid) for uid in (1, 2, 3, 4)] == [[10, "end"], ["end"], [10, 20, "end"], [10, "end"]]
    assert [stream.watched for stream in gateway.streams[1:]] == [
        [(1, "1 at 10"), (3, "3 at 20"), (4, "")],
        [(1, "1 at 10"), (3, "3 at 20"), (4, "4 at 10")],
        [(3, "3 at 20")],
    ]
    assert [(each.error.code, each.error.reason) for each in seen.resumed] == [
        (CODE.UNAVAILABLE, ""),
        (CODE.UNAVAILABLE, "DRAINING"),
        (CODE.OK, ""),
    ]
    assert seen.pending == [each.jobs for each in seen.resumed] == [3, 3, 1]
    assert len({stream.peer for stream in gateway.streams}) == 4


async def test_the_status_after_the_last_end_is_ignored(watch_all: Watch) -> None:
    with ManyJobsGateway([Read(1), end(1), BROKEN]) as gateway:
        seen = await watch_all(gateway.target, [1])
    assert (seen.items, seen.error, seen.resumed) == ([(1, "end")], None, [])


async def test_an_event_after_the_last_end_is_no_status(watch_all: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "END_SECONDS", 0.5)
    with ManyJobsGateway([Read(1), end(1), synced(1), ReadAll(), Hold()]) as gateway:
        start = time.monotonic()
        seen = await watch_all(gateway.target, [1])
        assert time.monotonic() - start >= 0.5
    assert (seen.items, seen.error, seen.resumed) == ([(1, "end")], None, [])


async def test_a_final_failure_ends_one_watch(watch_all: Watch) -> None:
    refused = failure(2, CODE.NOT_FOUND, "UPSTREAM_NOT_FOUND")
    with ManyJobsGateway([Read(3), refused, end(2), end(1), end(3), ReadAll()]) as gateway:
        seen = await watch_all(gateway.target, [1, 2, 3])
    assert seen.items == [(2, "failed"), (1, "end"), (3, "end")]
    error = seen.failures[2]
    assert (error.code, error.reason, error.uid) == (CODE.NOT_FOUND, "UPSTREAM_NOT_FOUND", 2)


@pytest.mark.parametrize("uid", [0, -1])
async def test_an_impossible_uid_fails_alone(watch_all: Watch, uid: int) -> None:
    invalid = failure(uid, CODE.INVALID_ARGUMENT, "REQUEST_INVALID")
    with ManyJobsGateway([Read(2), beat(), invalid, end(1), ReadAll()]) as gateway:
        seen = await watch_all(gateway.target, [uid, 1])
    assert (list(seen.failures), seen.of(1)) == ([uid], ["end"])


async def test_a_failure_that_ends_no_watch_is_ignored(watch_all: Watch) -> None:
    already = failure(1, CODE.ALREADY_EXISTS, "ALREADY_WATCHED")
    unknown = failure(9, CODE.NOT_FOUND, "UPSTREAM_NOT_FOUND")
    with ManyJobsGateway([Read(1), already, unknown, state(1), end(1), ReadAll()]) as gateway:
        seen = await watch_all(gateway.target, [1])
    assert seen.items == [(1, 10), (1, "end")]


@pytest.mark.parametrize("code", [CODE.UNAVAILABLE, CODE.RESOURCE_EXHAUSTED])
async def test_a_retryable_failure_is_watched_again_on_the_stream(watch_all: Watch, code: grpc.StatusCode) -> None:
    again = failure(1, code, "LIMIT_REACHED", retry_delay=0.05)
    script = [Read(2), state(1), again, state(2), end(2), Read(1), end(1), ReadAll()]
    with ManyJobsGateway(script) as gateway:
        seen = await watch_all(gateway.target, [1, 2])
    # Other jobs are read during the wait.
    assert seen.items == [(1, 10), (2, 10), (2, "end"), (1, "end")]
    [stream] = gateway.streams
    assert stream.requests[2].watch == pb.WatchJobRequest(uid=1, resume_token="1 at 10")
    assert [(each.uid, each.wait, each.error.reason) for each in seen.retried] == [(1, 0.05, "LIMIT_REACHED")]


async def test_an_error_of_a_callback_is_not_that_of_the_stream(watch_all: Watch) -> None:
    def stop(_: Retry) -> None:
        raise GatewayError(CODE.UNAVAILABLE, "enough")

    again = failure(1, CODE.UNAVAILABLE, "UPSTREAM_OUTAGE")
    with ManyJobsGateway([Read(1), again, Hold()]) as gateway:
        seen = await watch_all(gateway.target, [1], on_retry=stop)
    assert (str(seen.error), len(gateway.streams)) == ("enough [UNAVAILABLE]", 1)


async def test_a_limit_without_a_wait_is_final(watch_all: Watch) -> None:
    large = failure(1, CODE.RESOURCE_EXHAUSTED, "RESULT_TOO_LARGE")
    with ManyJobsGateway([Read(1), large, ReadAll()]) as gateway:
        seen = await watch_all(gateway.target, [1])
    assert (seen.items, seen.retried) == ([(1, "failed")], [])


async def test_a_retry_keeps_its_time_over_a_broken_stream(watch_all: Watch) -> None:
    again = failure(1, CODE.UNAVAILABLE, "UPSTREAM_OUTAGE", retry_delay=0.3)
    with ManyJobsGateway([Read(2), again, state(2), BROKEN], [Read(1), end(2), Read(1), end(1), ReadAll()]) as gateway:
        seen = await watch_all(gateway.target, [1, 2])
    assert seen.resumed[0].wait < 0.3
    assert [each.watch.uid for each in gateway.streams[1].requests] == [2, 1]


async def test_no_stream_is_opened_before_a_job_is_due(watch_all: Watch) -> None:
    again = failure(1, CODE.UNAVAILABLE, "UPSTREAM_OUTAGE", retry_delay=0.3)
    with ManyJobsGateway([Read(1), again, BROKEN], [Read(1), end(1), ReadAll()]) as gateway:
        seen = await watch_all(gateway.target, [1])
    assert 0.2 < seen.resumed[0].wait <= 0.3


async def test_a_login_resumes_all_jobs_on_a_new_stream(watch_all: Watch) -> None:
    tokens = iter(["stale", "fresh"])
    scripts = ([Read(3), state(1), state(2), REFUSED, Hold()], [Read(3), *map(end, (1, 2, 3)), ReadAll()])
    with ManyJobsGateway(*scripts) as gateway:
        seen = await watch_all(gateway.target, [1, 2, 3], token=lambda: next(tokens))
    assert (seen.error, seen.failures) == (None, {})
    assert [stream.token for stream in gateway.streams] == ["Bearer stale", "Bearer fresh"]
    assert gateway.streams[1].watched == [(1, "1 at 10"), (2, "2 at 10"), (3, "")]
    assert [(each.error.code, each.new_connection) for each in seen.resumed] == [(CODE.UNAUTHENTICATED, False)]
    assert seen.pending == [3]


@pytest.mark.parametrize("static", [True, False])
async def test_without_another_token_each_refusal_is_final(watch_all: Watch, static: bool) -> None:
    asked: list[None] = []

    def login() -> str | None:
        asked.append(None)
        return "only" if len(asked) == 1 else None

    others = [failure(uid, CODE.UNAUTHENTICATED, "UPSTREAM_UNAUTHENTICATED") for uid in (2, 3)]
    with ManyJobsGateway([Read(4), REFUSED, *others, end(4), ReadAll()]) as gateway:
        seen = await watch_all(gateway.target, [1, 2, 3, 4], token="only" if static else login)
    assert seen.items == [(1, "failed"), (2, "failed"), (3, "failed"), (4, "end")]
    # The first call, and once more for all three.
    assert len(asked) == (0 if static else 2)


async def test_a_fresh_token_that_is_rejected_is_final_for_each_job(watch_all: Watch) -> None:
    tokens = chain(["stale"], repeat("fresh"))
    scripts = ([Read(2), REFUSED, Hold()], [Read(2), state(2), REFUSED, end(2), ReadAll()])
    with ManyJobsGateway(*scripts) as gateway:
        seen = await watch_all(gateway.target, [1, 2], token=lambda: next(tokens))
    # The token is good for the other job, which proves nothing for this one.
    assert seen.items == [(2, 10), (1, "failed"), (2, "end")]


@pytest.mark.parametrize(("proof", "streams"), [(state(1), 3), (synced(2), 3), (synced(1), 2), (beat(), 2)])
async def test_a_token_is_proven_by_the_job_or_by_synced(watch_all: Watch, proof: pb.JobEvent, streams: int) -> None:
    numbers = iter(range(9))
    last = [Read(2), end(1), end(2), ReadAll()]
    scripts = ([Read(2), REFUSED, Hold()], [Read(2), proof, REFUSED, end(2), ReadAll()], last)
    with ManyJobsGateway(*scripts) as gateway:
        seen = await watch_all(gateway.target, [1, 2], token=lambda: f"token-{next(numbers)}")
    assert len(gateway.streams) == streams
    assert seen.of(1)[-1] == ("end" if streams == 3 else "failed")


async def test_a_stream_that_is_refused_logs_in_once(watch_all: Watch) -> None:
    tokens = chain(["stale"], repeat("fresh"))
    refused = [End(CODE.UNAUTHENTICATED, "UNAUTHENTICATED")]
    with ManyJobsGateway(refused, refused) as gateway:
        # With as many requests, the status usually arrives while one is being written.
        seen = await watch_all(gateway.target, range(1000), token=lambda: next(tokens))
    assert seen.error is not None
    assert seen.error.code is CODE.UNAUTHENTICATED
    assert [stream.token for stream in gateway.streams] == ["Bearer stale", "Bearer fresh"]


@pytest.mark.parametrize("status", [End(CODE.UNIMPLEMENTED), End(CODE.PERMISSION_DENIED, "UPSTREAM_PERMISSION_DENIED")])
async def test_a_final_status_ends_all(watch_all: Watch, status: End) -> None:
    with ManyJobsGateway([status]) as gateway:
        seen = await watch_all(gateway.target, [1, 2])
    assert seen.error is not None
    assert (seen.error.code, seen.error.reason) == (status.code, status.reason)
    assert len(gateway.streams) == 1


@pytest.mark.parametrize("status", [End(CODE.INTERNAL, "GATEWAY_DEFECT"), End(CODE.RESOURCE_EXHAUSTED)])
async def test_an_end_that_may_come_again_is_final_without_progress(watch_all: Watch, status: End) -> None:
    no_progress = [beat(), failure(1, CODE.ALREADY_EXISTS, "ALREADY_WATCHED")]
    scripts = ([Read(2), state(1), status], [Read(2), state(2), status], [Read(2), *no_progress, status])
    with ManyJobsGateway(*scripts) as gateway:
        seen = await watch_all(gateway.target, [1, 2])
    assert seen.error is not None
    assert (seen.error.code, len(seen.resumed)) == (status.code, 2)


async def test_a_silent_stream_is_resumed_on_a_new_connection(
    watch_all: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "LEAST_SILENCE", 0.3)
    first = pb.WatchJobRequest(uid=1, heartbeat_interval=Duration(nanos=100_000_000))
    # On a busy machine, more streams may be silent for 0.3 seconds.
    later = [[Read(1), end(1), end(2), ReadAll()]] * 1_000
    with ManyJobsGateway([Read(2), state(1), Hold()], *later) as gateway:
        seen = await watch_all(gateway.target, [first, 2])
    assert {retry.error.silent for retry in seen.resumed} == {True}
    assert len({stream.peer for stream in gateway.streams}) == len(gateway.streams) > 1


async def test_results_are_assembled_per_job_and_released(watch_all: Watch) -> None:
    one, two = b'{"data": "%s"}' % (b"x" * 100), b'{"data": 2}'
    scripts = (
        [Read(2), chunk(1, one, 0, 40), chunk(2, two, 0, 11), chunk(1, one, 40, 80), BROKEN],
        [Read(2), chunk(1, one, 80, len(one)), end(2, result=two), end(1, result=one), ReadAll()],
    )
    with ManyJobsGateway(*scripts) as gateway:
        seen = await watch_all(gateway.target, [1, 2])
    assert seen.results == {1: one, 2: two}
    assert gateway.streams[1].watched == [(1, "1 at byte 80"), (2, "2 at byte 11")]
    assert seen.released


async def test_a_damaged_result_fails_its_job_only(watch_all: Watch) -> None:
    damaged = [chunk(1, b"{}", 0, 2), end(1, result=b"{}", sha256="0" * 64)]
    missing = end(3, result=b"{}")
    missing.job.content_omitted = False
    with ManyJobsGateway([Read(3), *damaged, missing, end(2), ReadAll()]) as gateway:
        seen = await watch_all(gateway.target, [1, 2, 3])
    assert seen.items == [(1, "content_chunk"), (1, "failed"), (3, "failed"), (2, "end")]
    assert all(isinstance(error, ResultDamagedError) for error in seen.failures.values())


async def test_a_deadline_covers_all_streams(watch_all: Watch) -> None:
    with ManyJobsGateway([Read(2), state(1), Hold()]) as gateway:
        seen = await watch_all(gateway.target, [1, 2], timeout=0.3)
    assert seen.error is not None
    assert seen.error.code is CODE.DEADLINE_EXCEEDED


def test_leaving_a_sync_watch_cancels_its_stream() -> None:
    with ManyJobsGateway([Read(2), state(1), Hold()]) as gateway, Client(gateway.target) as client:
        with client.watch_all([1, 2]) as watch:
            next(watch)
        assert gateway.streams[0].left.wait(30)


async def test_leaving_an_asyncio_watch_cancels_its_stream() -> None:
    with ManyJobsGateway([Read(2), state(1), Hold()]) as gateway:
        async with AsyncClient(gateway.target) as client:
            async with client.watch_all([1, 2]) as watch:
                await anext(watch)
            assert await asyncio.to_thread(gateway.streams[0].left.wait, 30)


def test_a_closed_sync_client_ends_the_watch_with_an_error() -> None:
    def read(watch: Iterator[Any], ended: list[GatewayError]) -> None:
        try:
            list(watch)
        except GatewayError as error:
            ended.append(error)

    with ManyJobsGateway([Read(2), state(1), Hold()]) as gateway, Client(gateway.target) as client:
        watch = client.watch_all([1, 2])
        next(watch)
        ended: list[GatewayError] = []
        thread = threading.Thread(target=read, args=(watch, ended))
        thread.start()
        client.close()
        thread.join(30)
    assert [error.code for error in ended] == [CODE.CANCELLED]


async def test_a_closed_asyncio_client_ends_the_watch_with_an_error() -> None:
    with ManyJobsGateway([Read(2), state(1), Hold()]) as gateway:
        async with AsyncClient(gateway.target) as client:
            watch = client.watch_all([1, 2])
            await anext(watch)
            reading = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
        with pytest.raises(GatewayError):
            await reading
