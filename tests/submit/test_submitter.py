"""Submissions in memory: attempts, outcomes, limits and rates."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from gateway.clock import sleep_until
from gateway.errors import (
    GatewayError,
    LimitReached,
    RequestIdReused,
    RequestIdsExhausted,
    SubmitOutcomeUnknown,
    UpstreamConnectionLost,
    UpstreamError,
    UpstreamMalformed,
    UpstreamResponseTooLarge,
    UpstreamStatusError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from gateway.limits.rate_limiter import RateLimiter
from gateway.models import Job, JobStatus
from gateway.submit import (
    IdempotencyKey,
    IdempotencyStore,
    InMemoryIdempotencyStore,
    SubmissionResult,
    Submitter,
    longest_seconds,
    memory_store,
)
from gateway.submit import submitter as submitter_module
from tests.support.clock import SteppedClock, settle

CALLER = b"ann"
KEY = IdempotencyKey(CALLER, b"a")
CLAIM_SECONDS = 150.0
JOB = Job(42, JobStatus.RUNNING, "", done=False, observe_time=0.0)


class Post:
    """A POST that returns its `script` in order, and the last entry from then on, once `gate` is open."""

    def __init__(self, *script: Job | BaseException) -> None:
        self.script = deque(script)
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> Job:
        self.count += 1
        await self.gate.wait()
        entry = self.script.popleft() if len(self.script) > 1 else self.script[0]
        if isinstance(entry, BaseException):
            raise entry
        return entry


async def ask(
    submitter: Submitter, post: Post, key: IdempotencyKey | None = None, mark: bytes = b"", caller: bytes = CALLER
) -> SubmissionResult:
    """Submit as a call does."""
    with submitter.submit(post, caller, key, mark) as submission:
        return await submission.outcome()


class NoopSubmissionObserver:
    """An observer that does nothing."""

    def submitted(self, error: GatewayError | None) -> None:
        """Do nothing."""

    def replayed(self) -> None:
        """Do nothing."""


def submitter_of(clock: SteppedClock, rate: float = 2_000.0, store: IdempotencyStore | None = None) -> Submitter:
    store = store or InMemoryIdempotencyStore(clock)
    return Submitter(clock, store, RateLimiter(clock, rate), NoopSubmissionObserver(), CLAIM_SECONDS)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def submitter(clock: SteppedClock) -> Submitter:
    return submitter_of(clock, 2_000.0)


def refused() -> UpstreamError:
    return UpstreamUnreachable("refused")


async def test_a_submission_gives_the_job_of_the_post(submitter: Submitter) -> None:
    assert await ask(submitter, Post(JOB)) == SubmissionResult(42, JOB)


async def test_a_submission_is_retried_if_certainly_not_sent(clock: SteppedClock, submitter: Submitter) -> None:
    post = Post(refused(), refused(), JOB)
    task = asyncio.create_task(ask(submitter, post))
    await clock.advance(5)
    assert (task.result().uid, post.count) == (42, 3)


async def test_a_submission_is_given_up_after_some_attempts(clock: SteppedClock, submitter: Submitter) -> None:
    post = Post(refused())
    task = asyncio.create_task(ask(submitter, post, KEY, b"mark"))
    await clock.advance(60)
    assert isinstance(task.exception(), UpstreamUnreachable)
    assert post.count == 4
    assert (await ask(submitter, Post(JOB), KEY, b"mark")).uid == 42, "the id is free again"


async def test_a_claim_covers_the_slowest_attempts(clock: SteppedClock, submitter: Submitter) -> None:
    connect, total = 5.0, 120.0
    ends = iter([(connect, refused()), (connect, refused()), (connect, refused()), (total, None)])

    async def post() -> Job:
        seconds, error = next(ends)
        await sleep_until(clock, clock.now + seconds)
        if error is not None:
            raise error
        return JOB

    began = clock.now
    with submitter.submit(post, CALLER) as submission:
        ended = asyncio.create_task(submission.outcome())
        ended.add_done_callback(lambda _: took.append(clock.now - began))
        took: list[float] = []
        await clock.advance(200)
    # The waits between attempts are at least half of the longest ones.
    assert longest_seconds(connect, total) - 0.7 <= took[0] <= longest_seconds(connect, total)


@pytest.mark.parametrize(
    "error",
    [
        UpstreamConnectionLost("lost"),
        UpstreamTimeout("slow"),
        UpstreamResponseTooLarge("huge"),
        UpstreamMalformed("no json", http_status=200),
        UpstreamMalformed("no HTTP that we know", http_status=199),
        UpstreamMalformed("no http"),
        *(UpstreamMalformed("a redirect", http_status=status) for status in (300, 301, 302, 303, 304, 305, 306, 399)),
        *(UpstreamStatusError(status, "gave up") for status in (408, 444, 460, 499)),
        UpstreamStatusError(500, "broken"),
        UpstreamStatusError(599, "broken"),
    ],
    ids=lambda error: f"{type(error).__name__} {getattr(error, 'http_status', '')}",
)
async def test_an_unknown_outcome_is_remembered_and_never_retried(submitter: Submitter, error: UpstreamError) -> None:
    post = Post(error, JOB)
    told = []
    for _ in range(3):
        with pytest.raises(SubmitOutcomeUnknown) as caught:
            await ask(submitter, post, KEY, b"mark")
        told.append(str(caught.value))
        assert caught.value.http_status == getattr(error, "http_status", None)
    # The upstream may repeat the params, which no store holds.
    again = f"the upstream responded with HTTP {error.http_status}" if error.quotes_others else str(error)
    assert told == [str(error), again, again]
    assert post.count == 1


@pytest.mark.parametrize(
    "error",
    [
        *(UpstreamStatusError(status, "no") for status in (400, 401, 404, 409, 413, 421, 425, 429)),
        *(UpstreamStatusError(status, "no") for status in (463, 464, 494, 495, 496, 497, 498)),
        *(UpstreamMalformed("a redirect", http_status=status) for status in (307, 308)),
    ],
    ids=lambda error: str(error.http_status),
)
async def test_a_certain_refusal_frees_the_id_for_any_request(submitter: Submitter, error: UpstreamError) -> None:
    post = Post(error, JOB)
    with pytest.raises(type(error)):
        await ask(submitter, post, KEY, b"mark")
    assert (await ask(submitter, post, KEY, b"changed")).uid == 42


async def test_calls_that_arrive_while_it_is_in_flight_join_it(submitter: Submitter) -> None:
    post = Post(JOB)
    post.gate.clear()
    tasks = [asyncio.create_task(ask(submitter, post, KEY, b"mark")) for _ in range(20)]
    await settle()
    with pytest.raises(RequestIdReused):
        await ask(submitter, post, KEY, b"other")
    post.gate.set()
    assert [await task for task in tasks] == [
        SubmissionResult(42, JOB),
        *[SubmissionResult(42, JOB, replayed=True)] * 19,
    ]
    assert post.count == 1


async def test_later_calls_get_the_uid(submitter: Submitter) -> None:
    post = Post(JOB)
    await ask(submitter, post, KEY, b"mark")
    assert await ask(submitter, post, KEY, b"mark") == SubmissionResult(42, None, replayed=True)
    with pytest.raises(RequestIdReused):
        await ask(submitter, post, KEY, b"other")
    assert post.count == 1


async def test_a_caller_that_leaves_does_not_stop_it(submitter: Submitter) -> None:
    post = Post(JOB)
    post.gate.clear()

    async def call() -> SubmissionResult:
        return await ask(submitter, post, KEY, b"mark")

    caller = asyncio.create_task(call())
    await settle()
    caller.cancel()
    await settle()
    post.gate.set()
    await submitter.aclose()
    assert await ask(submitter, post, KEY, b"mark") == SubmissionResult(42, None, replayed=True)
    assert post.count == 1


async def test_a_submission_cut_off_by_a_stop_has_an_unknown_outcome(submitter: Submitter) -> None:
    post = Post(JOB)
    post.gate.clear()
    task = submitter.submit(post, CALLER, KEY, b"mark").task
    await settle()
    task.cancel()
    await asyncio.wait([task])
    with pytest.raises(SubmitOutcomeUnknown):
        await ask(submitter, post, KEY, b"mark")


async def test_records_are_kept_for_25_hours(clock: SteppedClock, submitter: Submitter) -> None:
    post = Post(JOB)
    await ask(submitter, post, KEY, b"mark")
    await clock.advance(25 * 3600 - 1)
    await ask(submitter, post, KEY, b"mark")
    assert post.count == 1
    await clock.advance(2)
    await ask(submitter, post, KEY, b"mark")
    assert post.count == 2


async def test_a_full_store_refuses_new_ids_and_keeps_the_old(
    clock: SteppedClock, submitter: Submitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_store, "MAX_RECORDS", 4)
    post = Post(JOB)
    for number in range(3):
        await ask(submitter, post, IdempotencyKey(b"ann", b"%d" % number), b"mark")
    with pytest.raises(RequestIdsExhausted):
        await ask(submitter, post, IdempotencyKey(b"ann", b"3"), b"mark")
    await ask(submitter, post, IdempotencyKey(b"bob", b"0"), b"mark")
    with pytest.raises(RequestIdsExhausted):
        await ask(submitter, post, IdempotencyKey(b"bob", b"1"), b"mark")
    assert await ask(submitter, post, IdempotencyKey(b"ann", b"0"), b"mark") == SubmissionResult(
        42, None, replayed=True
    )
    await clock.advance(25 * 3600)
    assert (await ask(submitter, post, IdempotencyKey(b"ann", b"3"), b"mark")).job == JOB


async def test_nothing_is_in_flight_after_closing(clock: SteppedClock, submitter: Submitter) -> None:
    posts = [Post(JOB), Post(refused(), JOB)]
    tasks = [asyncio.create_task(ask(submitter, post)) for post in posts]
    await asyncio.sleep(0)
    closing = asyncio.create_task(submitter.aclose())
    await clock.advance(5)
    await closing
    assert all(task.done() for task in tasks)


async def test_a_submission_is_not_retried_for_callers_that_left(clock: SteppedClock, submitter: Submitter) -> None:
    post = Post(refused(), refused(), JOB)
    callers = [asyncio.create_task(ask(submitter, post, KEY, b"mark")) for _ in range(2)]
    await settle()
    callers[0].cancel()
    await clock.advance(0.01)
    assert post.count == 1
    callers[1].cancel()
    await clock.advance(60)
    assert post.count == 1, "no one waits any more"
    assert (await ask(submitter, Post(JOB), KEY, b"mark")).uid == 42, "the id is free again"


async def test_submissions_in_flight_are_limited_and_shared_fairly(
    clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitter_module, "MAX_IN_FLIGHT", 4)
    submitter = submitter_of(clock, 2_000.0)
    post = Post(JOB)
    post.gate.clear()
    first = submitter.submit(post, CALLER, KEY, b"mark")
    second = submitter.submit(post, CALLER)
    assert submitter.submit(post, CALLER, KEY, b"mark").task is first.task, "a repetition takes no slot"
    submitter.submit(post, CALLER)
    with pytest.raises(LimitReached, match=r"this credential has 3 of 4 in flight") as caught:
        submitter.submit(post, CALLER)
    assert 1.0 <= (caught.value.retry_after or 0) <= 4.0
    other = submitter.submit(post, b"bob")
    with pytest.raises(LimitReached):
        submitter.submit(post, b"eve")
    post.gate.set()
    await asyncio.wait([first.task, second.task, other.task])
    await submitter.aclose()
    assert (await ask(submitter, post)).uid == 42


async def test_submissions_over_the_rate_are_rejected_and_not_sent(clock: SteppedClock) -> None:
    submitter = submitter_of(clock, 2.0)
    post = Post(JOB)
    for _ in range(2):
        await ask(submitter, post)
    for _ in range(1_000):
        with pytest.raises(LimitReached, match="exceeds its rate") as caught:
            await ask(submitter, post, KEY, b"mark")
        assert 1.0 <= (caught.value.retry_after or 0) <= 4.0
    assert post.count == 2
    assert (await ask(submitter, post, caller=b"bob")).uid == 42, "others are not concerned"
    await clock.advance(1.0)
    assert (await ask(submitter, post, KEY, b"another mark")).uid == 42, "the id was not taken"
    assert post.count == 4


async def test_a_call_that_joins_or_finds_no_slot_takes_no_token(clock: SteppedClock) -> None:
    submitter = submitter_of(clock, 2.0)
    post = Post(JOB)
    post.gate.clear()
    first = submitter.submit(post, CALLER, KEY, b"mark")
    for _ in range(100):
        assert submitter.submit(post, CALLER, KEY, b"mark").task is first.task
    second = submitter.submit(post, CALLER)
    post.gate.set()
    await asyncio.wait([first.task, second.task])
    assert post.count == 2


@pytest.mark.parametrize(("status", "left"), [(400, 99), (429, 1)])
async def test_only_a_429_slows_the_submissions_of_its_caller_down(clock: SteppedClock, status: int, left: int) -> None:
    submitter = submitter_of(clock, 100.0)
    error = UpstreamStatusError(status, "no")
    with pytest.raises(UpstreamStatusError) as caught:
        await ask(submitter, Post(error))
    assert caught.value is error
    for caller, expected in ((CALLER, left), (b"bob", 100)):
        for _ in range(expected):
            await ask(submitter, Post(JOB), caller=caller)
        with pytest.raises(LimitReached):
            await ask(submitter, Post(JOB), caller=caller)
    await clock.advance(700)
    for _ in range(100):
        await ask(submitter, Post(JOB))


async def test_a_429_with_retry_after_holds_the_next_submissions(clock: SteppedClock) -> None:
    submitter = submitter_of(clock)
    with pytest.raises(UpstreamStatusError):
        await ask(submitter, Post(UpstreamStatusError(429, "slow down", retry_after=60.0)), KEY, b"mark")
    with pytest.raises(LimitReached) as raised:
        await ask(submitter, Post(JOB), KEY, b"mark")
    assert 61 <= (raised.value.retry_after or 0) <= 63
    assert (await ask(submitter, Post(JOB), caller=b"bob")).uid == 42
    await clock.advance(61)
    assert (await ask(submitter, Post(JOB), KEY, b"mark")).uid == 42
