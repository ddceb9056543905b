"""Several gateways on one store that fails at will, with a stepped clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import (
    RequestIdReused,
    StateUnavailable,
    SubmitOutcomeUnknown,
    UpstreamStatusError,
    UpstreamUnreachable,
)
from gateway.models import Job, JobStatus
from gateway.submit import InMemoryIdempotencyStore, SubmissionResult, Submitter, once
from tests.submit.test_submitter import CALLER, CLAIM_SECONDS, JOB, KEY, Post, ask, submitter_of
from tests.support.clock import SteppedClock, settle

if TYPE_CHECKING:
    from collections.abc import Callable

REPLAY = SubmissionResult(42, None, replayed=True)


class FailingStore:
    """The store of one gateway. It fails in `broken` methods, after they have worked if `late`.

    All methods, or the `slow` ones if there are any, wait for `gate`.
    """

    def __init__(self, store: InMemoryIdempotencyStore) -> None:
        self._store = store
        self.broken: set[str] = set()
        self.slow: set[str] = set()
        self.late = False
        self.calls: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def lose_everything(self) -> None:
        """Lose all records, as a Redis without persistence does in a restart."""
        self._store._entries.clear()  # noqa: SLF001 - what a failure does

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        async def call(*arguments: object) -> Any:
            self.calls.append(name)
            if not self.slow or name in self.slow:
                await self.gate.wait()
            if name in self.broken and not self.late:
                raise StateUnavailable("away")
            result = await method(*arguments)
            if name in self.broken:
                raise StateUnavailable("away")
            return result

        return call


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def stores(clock: SteppedClock) -> list[FailingStore]:
    shared = InMemoryIdempotencyStore(clock)
    return [FailingStore(shared) for _ in range(2)]


@pytest.fixture
def fleet(clock: SteppedClock, stores: list[FailingStore]) -> list[Submitter]:
    return [submitter_of(clock, store=store) for store in stores]


def held_post(entry: Job | BaseException = JOB) -> Post:
    post = Post(entry)
    post.gate.clear()
    return post


async def test_a_repeat_on_another_gateway_waits_for_the_outcome(clock: SteppedClock, fleet: list[Submitter]) -> None:
    post, other = held_post(), Post(JOB)
    first = asyncio.create_task(ask(fleet[0], post, KEY, b"mark"))
    await settle()
    changed = asyncio.create_task(ask(fleet[1], other, KEY, b"another"))
    await settle()
    assert isinstance(changed.exception(), RequestIdReused)
    again = asyncio.create_task(ask(fleet[1], other, KEY, b"mark"))
    await clock.advance(100)
    assert not again.done()
    post.gate.set()
    await clock.advance(1)
    assert (first.result(), again.result()) == (SubmissionResult(42, JOB), REPLAY)
    assert (post.count, other.count) == (1, 0)


async def test_a_repeat_that_waited_for_a_refused_submission_submits(
    clock: SteppedClock, fleet: list[Submitter]
) -> None:
    post, other = held_post(UpstreamStatusError(400, "no")), Post(JOB)
    first = asyncio.create_task(ask(fleet[0], post, KEY, b"mark"))
    await settle()
    again = asyncio.create_task(ask(fleet[1], other, KEY, b"mark"))
    await clock.advance(1)
    post.gate.set()
    await clock.advance(1)
    assert isinstance(first.exception(), UpstreamStatusError)
    assert again.result() == SubmissionResult(42, JOB)
    assert other.count == 1


async def test_a_repetition_whose_callers_left_does_not_submit(clock: SteppedClock, fleet: list[Submitter]) -> None:
    post, other = held_post(UpstreamStatusError(400, "no")), Post(JOB)
    first = asyncio.create_task(ask(fleet[0], post, KEY, b"mark"))
    await settle()
    again = asyncio.create_task(ask(fleet[1], other, KEY, b"mark"))
    await clock.advance(1)
    again.cancel()
    post.gate.set()
    await clock.advance(5)
    assert isinstance(first.exception(), UpstreamStatusError)
    assert (other.count, fleet[1].in_flight) == (0, 0)


async def test_a_repetition_learns_that_the_first_gateway_died(clock: SteppedClock, fleet: list[Submitter]) -> None:
    first = asyncio.create_task(ask(fleet[0], held_post(), KEY, b"mark"))
    await settle()
    again = asyncio.create_task(ask(fleet[1], Post(JOB), KEY, b"mark"))
    # Suspended: it renews nothing.
    fleet[0]._once._store.broken.add("renew")  # type: ignore[attr-defined]  # noqa: SLF001 - the store of this test
    await clock.advance(CLAIM_SECONDS + 1)
    assert isinstance(again.exception(), SubmitOutcomeUnknown)
    first.cancel()


async def test_a_submission_longer_than_its_claim_renews_it(
    clock: SteppedClock, fleet: list[Submitter], stores: list[FailingStore]
) -> None:
    post = held_post()
    first = asyncio.create_task(ask(fleet[0], post, KEY, b"mark"))
    await clock.advance(CLAIM_SECONDS * 0.6)
    stores[0].broken.add("renew")
    await clock.advance(CLAIM_SECONDS * 0.7)
    stores[0].broken.clear()
    await clock.advance(CLAIM_SECONDS * 2)
    again = asyncio.create_task(ask(fleet[1], Post(JOB), KEY, b"mark"))
    await settle()
    assert not again.done(), "it is known to be in flight"
    post.gate.set()
    await clock.advance(1)
    assert (first.result().uid, again.result()) == (42, REPLAY)
    renewals = stores[0].calls.count("renew")
    await clock.advance(CLAIM_SECONDS * 2)
    assert stores[0].calls.count("renew") == renewals, "the submission has ended"


@pytest.mark.parametrize("late", [False, True], ids=["did not arrive", "arrived"])
async def test_if_the_store_is_down_nothing_is_sent_or_remembered(
    clock: SteppedClock, fleet: list[Submitter], stores: list[FailingStore], late: bool
) -> None:
    post = Post(JOB)
    stores[0].broken, stores[0].late = {"claim", "release"}, late
    with pytest.raises(StateUnavailable):
        await ask(fleet[0], post, KEY, b"mark")
    assert (await ask(fleet[0], post)).uid == 42, "without an id it goes on"
    assert post.count == 1
    stores[0].broken = set()
    await clock.advance(10)
    assert await ask(fleet[1], post, KEY, b"another mark") == SubmissionResult(42, JOB)


async def test_an_outcome_that_cannot_be_recorded_is_recorded_later(
    clock: SteppedClock, fleet: list[Submitter], stores: list[FailingStore]
) -> None:
    stores[0].broken = {"settle"}
    assert await ask(fleet[0], Post(JOB), KEY, b"mark") == SubmissionResult(42, JOB)
    again = asyncio.create_task(ask(fleet[1], Post(JOB), KEY, b"mark"))
    await clock.advance(60)
    assert not again.done()
    closing = asyncio.create_task(fleet[0].aclose())
    await clock.advance(1)
    assert not closing.done(), "a drain waits for it"
    stores[0].broken = set()
    await clock.advance(10)
    assert again.result() == REPLAY
    assert closing.done()


async def test_recording_is_given_up_some_time_after_the_claim(
    clock: SteppedClock, fleet: list[Submitter], stores: list[FailingStore]
) -> None:
    stores[0].broken = {"settle"}
    await ask(fleet[0], Post(JOB), KEY, b"mark")
    await clock.advance(CLAIM_SECONDS + 620)
    await fleet[0].aclose()
    assert 100 < stores[0].calls.count("settle") < 320


async def test_a_claim_that_ended_before_the_post_sends_nothing(
    clock: SteppedClock, fleet: list[Submitter], stores: list[FailingStore]
) -> None:
    post = Post(JOB)
    stores[0].gate.clear()
    call = asyncio.create_task(ask(fleet[0], post, KEY, b"mark"))
    await settle()
    # As after a suspension, which no timer notices in time.
    clock.now += CLAIM_SECONDS
    stores[0].gate.set()
    await settle()
    assert isinstance(call.exception(), StateUnavailable)
    assert post.count == 0
    assert (await ask(fleet[1], post, KEY, b"mark")).uid == 42, "the id is free again"


async def test_a_renewal_in_flight_is_not_repeated_after_the_end(
    clock: SteppedClock, fleet: list[Submitter], stores: list[FailingStore]
) -> None:
    stores[0].slow = stores[0].broken = {"renew"}
    stores[0].gate.clear()
    post = held_post()
    first = asyncio.create_task(ask(fleet[0], post, KEY, b"mark"))
    await clock.advance(CLAIM_SECONDS * 0.6)
    post.gate.set()
    await first
    stores[0].gate.set()
    await clock.advance(CLAIM_SECONDS)
    assert stores[0].calls.count("renew") == 1


async def test_a_claim_that_another_one_replaced_is_logged(
    fleet: list[Submitter], stores: list[FailingStore], logged: list[dict[str, object]]
) -> None:
    post = held_post()
    first = asyncio.create_task(ask(fleet[0], post, KEY, b"mark"))
    await settle()
    stores[0].lose_everything()
    await ask(fleet[1], Post(JOB), KEY, b"mark")
    assert not logged
    post.gate.set()
    await first
    assert logged == [{"event": "state.claim_lost", "uid": 42, "log_level": "warning"}]


async def test_a_gateway_that_knows_its_claim_is_lost_sends_nothing(
    clock: SteppedClock, fleet: list[Submitter], stores: list[FailingStore]
) -> None:
    post = Post(UpstreamUnreachable("refused"), JOB)
    post.gate.clear()
    first = asyncio.create_task(ask(fleet[0], post, KEY, b"mark"))
    await settle()
    stores[0].lose_everything()
    assert (await ask(fleet[1], Post(JOB), KEY, b"mark")).uid == 42
    await clock.advance(CLAIM_SECONDS * 0.6)
    assert stores[0].calls[-1] == "renew"
    post.gate.set()
    await clock.advance(1)
    assert isinstance(first.exception(), StateUnavailable)
    assert post.count == 1


async def test_a_gateway_suspended_during_an_attempt_sends_no_other(
    clock: SteppedClock, fleet: list[Submitter]
) -> None:
    post = Post(UpstreamUnreachable("refused"), JOB)
    post.gate.clear()
    first = asyncio.create_task(ask(fleet[0], post, KEY, b"mark"))
    await settle()
    clock.now += CLAIM_SECONDS
    with pytest.raises(SubmitOutcomeUnknown):
        await ask(fleet[1], Post(JOB), KEY, b"mark")
    # The timer of the renewal is overdue.
    await clock.advance(1)
    post.gate.set()
    await clock.advance(1)
    assert isinstance(first.exception(), StateUnavailable)
    assert post.count == 1


async def test_background_releases_of_claims_in_doubt_are_limited(
    clock: SteppedClock, fleet: list[Submitter], stores: list[FailingStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(once, "MAX_RECORDING", 10)
    stores[0].broken = {"claim", "release"}
    for number in range(50):
        with pytest.raises(StateUnavailable):
            await ask(fleet[0], Post(JOB), KEY._replace(request=b"%d" % number), b"mark")
    await clock.advance(1)
    stores[0].calls.clear()
    await clock.advance(10)
    assert 10 <= stores[0].calls.count("release") <= 10 * 10
    stores[0].broken = set()
    await clock.advance(10)
    await fleet[0].aclose()


async def test_an_unexpected_error_of_a_post_is_an_unknown_outcome(fleet: list[Submitter]) -> None:
    with pytest.raises(ZeroDivisionError):
        await ask(fleet[0], Post(ZeroDivisionError()), KEY, b"mark")
    with pytest.raises(SubmitOutcomeUnknown, match="was interrupted"):
        await ask(fleet[1], Post(JOB), KEY, b"mark")


async def test_an_ended_job_without_a_uid_is_replayed_without_result(fleet: list[Submitter]) -> None:
    ended = Job(0, JobStatus.SUCCESS, "success", done=True, observe_time=1.0)
    await ask(fleet[0], Post(ended), KEY, b"mark")
    assert await ask(fleet[1], Post(JOB), KEY, b"mark") == SubmissionResult(0, ended, replayed=True)


async def test_a_call_that_joins_a_submission_did_not_cause_it(fleet: list[Submitter]) -> None:
    post = held_post()
    calls = [fleet[0].submit(post, CALLER, KEY, b"mark") for _ in range(2)]
    post.gate.set()
    assert [(await call.outcome()).replayed for call in calls] == [False, True]
