"""Watchers and poll loops of the hub, with a stepped clock."""

from __future__ import annotations

import asyncio
import gc
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from gateway.clock import sleep_until
from gateway.errors import (
    Draining,
    GatewayError,
    JobOverdue,
    UpstreamConnectionLost,
    UpstreamError,
    UpstreamOutage,
    UpstreamStatusError,
    UpstreamTimeout,
)
from gateway.limits.rate_limiter import RateLimiter
from gateway.watch import InMemorySentJobs, NoChange, StateChange, WatchKey
from gateway.watch.hub import LEAVE_BATCH
from gateway.watch.recent import KEEP_BYTES, KEEP_READ_SECONDS, KEEP_RESULT_SECONDS, UNWATCHED_SECONDS, ReadKeys
from gateway.watch.refusals import GRACE_SECONDS, JUST_SENT_SECONDS
from gateway.watch.sent_jobs import KEEP_JOB_SECONDS, LONGEST_JOB_SECONDS, OVERDUE_MARGIN_SECONDS
from tests.support.clock import SteppedClock, settle
from tests.support.polling import FakePoller, Hang, State, make_hub

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.clock import PauseTimeout
    from gateway.watch import Hub, Subscription, Watcher

ANN = WatchKey(b"ann", 42)
BOB = WatchKey(b"bob", 42)
FAR = 1e9


class FakeGroup:
    """Records the times at which it is ended."""

    def __init__(self, clock: SteppedClock) -> None:
        self.ended: list[float] = []
        self._clock = clock

    def end(self, _: GatewayError) -> None:
        self.ended.append(self._clock.now)


class Follower:
    """A task that reads a watcher to its end, and records its updates."""

    def __init__(
        self,
        hub: Hub[State],
        key: WatchKey,
        fetch: FakePoller,
        seen: Callable[[State], bool] | None = None,
        every: float = FAR,
    ) -> None:
        self.got: list[StateChange[State] | NoChange] = []
        self._hub, self._key, self._fetch, self._seen, self._every = hub, key, fetch, seen, every
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        with self._hub.watch(self._key, self._fetch, self._seen) as watcher:
            while True:
                update = await watcher.next(self._fetch.clock.now + self._every)
                self.got.append(update)
                if isinstance(update, StateChange) and update.last:
                    return

    @property
    def values(self) -> list[int]:
        return [update.state.value for update in self.got if isinstance(update, StateChange)]

    async def leave(self) -> None:
        self.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await self.task


class SlowPoller(FakePoller):
    """A poller whose reads take some seconds."""

    def __init__(self, clock: SteppedClock, *script: State | Exception, takes: float = 5.0) -> None:
        super().__init__(clock, *script)
        self.takes = takes

    async def __call__(self, pause: PauseTimeout = nullcontext) -> State:
        await sleep_until(self.clock, self.clock.now + self.takes)
        return await super().__call__(pause)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


async def assert_nothing_left(hub: Hub[State], clock: SteppedClock, *, reading: float = 0.0) -> None:
    """Check that nothing is left after `reading` seconds, in which unwatched reads may end."""
    await settle()
    await clock.advance(reading)
    assert hub.loop_count == 0
    assert hub.watcher_count == 0
    # Recent results are kept for a while.
    await clock.advance(KEEP_RESULT_SECONDS)
    assert clock.pending <= 1, "the timer of all time limits"
    await hub.aclose()
    assert clock.pending == 0
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert others == set()


def lost() -> UpstreamError:
    return UpstreamConnectionLost("lost")


def throttled(seconds: float | None) -> UpstreamError:
    return UpstreamStatusError(429, "slow down", retry_after=seconds)


async def test_a_watch_gets_the_state_every_change_and_the_end(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1), State(1), State(3), State(2), State(2), State(9, last=True))
    hub = make_hub(clock)
    follower = Follower(hub, ANN, fetch)
    await settle()
    assert follower.values == [1]
    await clock.advance(10)
    assert follower.values == [1, 3, 2, 9]
    assert [update.last for update in follower.got if isinstance(update, StateChange)] == [False, False, False, True]
    await follower.task
    assert fetch.count == 6
    await assert_nothing_left(hub, clock)


async def test_equal_states_are_not_repeated(
    clock: SteppedClock,
) -> None:
    fetch = FakePoller(clock, State(1, url="a"), State(1, url="b"), State(1, url="c"), State(1, last=True))
    hub = make_hub(clock)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(2.5)
    assert follower.values == [1]
    late = Follower(hub, ANN, fetch)
    await settle()
    assert [update.state.url for update in late.got if isinstance(update, StateChange)] == ["c"]
    await clock.advance(10)
    assert follower.values == late.values == [1, 1]
    await assert_nothing_left(hub, clock)


async def test_any_number_of_watchers_cost_one_loop(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1), State(2), State(3, last=True))
    hub = make_hub(clock)
    followers = [Follower(hub, ANN, fetch) for _ in range(50)]
    await clock.advance(1.5)
    followers += [Follower(hub, ANN, fetch) for _ in range(50)]
    await clock.advance(10)
    assert fetch.count == 3
    assert all(follower.values == [1, 2, 3] for follower in followers[:50])
    assert all(follower.values == [2, 3] for follower in followers[50:])


async def test_each_credential_is_polled_separately(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    ann = Follower(hub, ANN, FakePoller(clock, State(1, last=True)))
    bob = Follower(hub, BOB, FakePoller(clock, UpstreamStatusError(404, "not yours")))
    await settle()
    assert ann.values == [1]
    with pytest.raises(UpstreamStatusError):
        await bob.task
    assert bob.values == []


async def test_polling_stops_when_the_last_watcher_leaves(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1))
    hub = make_hub(clock)
    first, second = Follower(hub, ANN, fetch), Follower(hub, ANN, fetch)
    await clock.advance(2.5)
    await first.leave()
    polls = fetch.count
    await clock.advance(2)
    assert fetch.count > polls
    await second.leave()
    polls = fetch.count
    await assert_nothing_left(hub, clock)
    await clock.advance(10)
    assert fetch.count == polls


async def test_a_read_in_flight_is_finished_for_the_next_caller(clock: SteppedClock) -> None:
    """Each wait is shorter than a read, but all of them together are longer."""
    fetch = SlowPoller(clock, State(1), State(2, last=True), takes=4)
    hub = make_hub(clock)
    got: list[int | None] = []
    for _ in range(10):
        with hub.watch(ANN, fetch) as watcher:
            await clock.advance(1)
            got.append(None if watcher.latest is None else watcher.latest.value)
    assert got == [None] * 3 + [1] * 5 + [2] * 2
    assert fetch.count == 2
    await assert_nothing_left(hub, clock, reading=UNWATCHED_SECONDS)


async def test_a_read_without_watchers_is_the_last_one(clock: SteppedClock) -> None:
    fetch = SlowPoller(clock, State(1), takes=4)
    hub = make_hub(clock)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(1)
    await follower.leave()
    await clock.advance(3 + UNWATCHED_SECONDS - 0.1)
    assert hub.loop_count == 1
    await clock.advance(0.1)
    assert fetch.count == 1
    await assert_nothing_left(hub, clock)


@pytest.mark.parametrize(
    "failure", [UpstreamStatusError(404, "no"), UpstreamConnectionLost("lost")], ids=["404", "lost"]
)
async def test_a_read_without_watchers_may_fail(clock: SteppedClock, failure: UpstreamError) -> None:
    hub = make_hub(clock)
    follower = Follower(hub, ANN, SlowPoller(clock, failure, takes=4))
    await clock.advance(1)
    await follower.leave()
    await assert_nothing_left(hub, clock, reading=3 + UNWATCHED_SECONDS)


async def test_a_read_without_watchers_has_its_timeout(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, Hang)
    hub = make_hub(clock, outage=30)
    follower = Follower(hub, ANN, fetch)
    await settle()
    await follower.leave()
    await clock.advance(9.9)
    assert fetch.cancelled == 0
    await clock.advance(0.1)
    assert fetch.cancelled == 1
    await assert_nothing_left(hub, clock, reading=UNWATCHED_SECONDS)


async def test_closing_cancels_a_read_without_watchers(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, Hang)
    hub = make_hub(clock)
    follower = Follower(hub, ANN, fetch)
    await settle()
    await follower.leave()
    await hub.aclose()
    assert fetch.cancelled == 1
    assert clock.pending == 0


async def test_a_huge_unseen_result_is_not_kept(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    fetch = SlowPoller(clock, State(1, last=True, size=KEEP_BYTES + 1), takes=4)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(1)
    await follower.leave()
    await clock.advance(3)
    assert hub.loop_count == 0
    again = Follower(hub, ANN, fetch)
    await clock.advance(4)
    assert (again.values, fetch.count) == ([1], 2)


async def test_a_final_failure_ends_all_watchers_of_the_loop(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1), *[UpstreamStatusError(403, "no")] * 2, State(2, last=True))
    hub = make_hub(clock)
    followers = [Follower(hub, ANN, fetch) for _ in range(3)]
    await clock.advance(4)
    for follower in followers:
        assert follower.values == [1]
        with pytest.raises(UpstreamStatusError):
            await follower.task
    late = Follower(hub, ANN, fetch)
    await settle()
    assert late.values == [2]
    await assert_nothing_left(hub, clock)


async def test_a_watcher_that_joins_after_the_end_gets_it(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1, last=True))
    hub = make_hub(clock)
    with hub.watch(ANN, fetch) as reader:
        await settle()
        assert hub.loop_count == 0
        late = Follower(hub, ANN, fetch)
        await settle()
        assert late.values == [1]
        await clock.advance(KEEP_RESULT_SECONDS)
        later = Follower(hub, ANN, fetch)
        await settle()
        assert later.values == [1]
        assert await reader.next(FAR) == StateChange(State(1, last=True), 0, last=True)
    assert fetch.count == 2
    await assert_nothing_left(hub, clock)


@pytest.mark.parametrize(
    "failure",
    [lost(), UpstreamTimeout("slow"), UpstreamStatusError(503, "no"), UpstreamStatusError(408, "no"), throttled(None)],
    ids=["lost", "timed out", "503", "408", "429"],
)
async def test_transient_failures_end_no_watch(clock: SteppedClock, failure: UpstreamError) -> None:
    fetch = FakePoller(clock, State(1), *[failure] * 20, State(2, last=True))
    hub = make_hub(clock)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(60)
    assert follower.values == [1, 2]
    await assert_nothing_left(hub, clock)


async def test_an_outage_ends_the_watch_at_its_limit(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1), lost())
    hub = make_hub(clock, outage=300)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(1)
    began = fetch.times[1] if fetch.count > 1 else clock.now
    await clock.advance(began + 299.9 - clock.now)
    assert not follower.task.done()
    await clock.advance(2)
    with pytest.raises(UpstreamOutage, match="has failed for 300 s; last failure: lost") as caught:
        await follower.task
    assert isinstance(caught.value.last, UpstreamConnectionLost)
    assert fetch.times[-1] < fetch.times[1] + 300, "no poll after the limit"
    await assert_nothing_left(hub, clock)


async def test_a_success_resets_the_outage(clock: SteppedClock) -> None:
    flapping = [lost()] * 100 + [State(1)]
    fetch = FakePoller(clock, *flapping * 20, State(2, last=True))
    hub = make_hub(clock, outage=120)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(3600)
    assert follower.values == [1, 2]


@pytest.mark.parametrize("failure", [throttled(30), UpstreamStatusError(503, "no", retry_after=30)], ids=["429", "503"])
async def test_retry_after_is_followed(clock: SteppedClock, failure: UpstreamError) -> None:
    fetch = FakePoller(clock, failure, State(1, last=True))
    hub = make_hub(clock)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(60)
    assert follower.values == [1]
    assert 30 <= fetch.gaps[0] <= 31


@pytest.mark.parametrize("failure", [throttled(3600), UpstreamStatusError(503, "no", retry_after=3600)])
@pytest.mark.parametrize("later", [State(7, last=True), UpstreamConnectionLost("lost")], ids=["good", "failing"])
async def test_a_long_retry_after_allows_one_more_poll(
    clock: SteppedClock, failure: UpstreamError, later: State | UpstreamError
) -> None:
    fetch = FakePoller(clock, failure, later)
    hub = make_hub(clock, outage=300)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(299.9)
    assert fetch.count == 1
    assert not follower.task.done()
    await clock.advance(1.1)
    assert fetch.count == 2
    if isinstance(later, State):
        assert follower.values == [7]
    else:
        with pytest.raises(UpstreamOutage) as caught:
            await follower.task
        assert caught.value.last is later
    await assert_nothing_left(hub, clock)


async def test_one_more_poll_that_hangs_is_cut_off(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, UpstreamStatusError(503, "no", retry_after=3600), Hang)
    hub = make_hub(clock, outage=300)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(399.9)
    assert not follower.task.done()
    await clock.advance(0.1)
    with pytest.raises(UpstreamOutage) as caught:
        await follower.task
    assert isinstance(caught.value.last, UpstreamTimeout)
    await assert_nothing_left(hub, clock)


async def test_each_throttled_loop_polls_once_more(clock: SteppedClock) -> None:
    """All loops fail. The 429 that one gets at its limit does not delay the end of the others."""
    hub = make_hub(clock, outage=300, slots=100)
    fetches = [SlowPoller(clock, throttled(3600), takes=0.1) for _ in range(5)]
    followers = [Follower(hub, WatchKey(b"ann", number), fetch) for number, fetch in enumerate(fetches)]
    await clock.advance(303)
    assert [fetch.count for fetch in fetches] == [2] * 5
    for follower in followers:
        assert isinstance(follower.task.exception(), UpstreamOutage)
    await assert_nothing_left(hub, clock)


async def test_delays_by_others_at_most_double_an_outage(clock: SteppedClock) -> None:
    hub = make_hub(clock, outage=300, slots=100)
    fetch = FakePoller(clock, throttled(3600))
    follower = Follower(hub, ANN, fetch)
    for number in range(6):
        await clock.advance(100)
        hub._throttle.close(b"ann", clock.now + 250 + number)  # noqa: SLF001 - like a throttled loop
    await clock.advance(1.1)
    assert isinstance(follower.task.exception(), UpstreamOutage)
    assert fetch.count == 2
    await assert_nothing_left(hub, clock)


async def test_a_429_delays_only_the_loops_of_its_credential(clock: SteppedClock) -> None:
    hub = make_hub(clock, slots=100)
    fine = [FakePoller(clock, State(number)) for number in range(10)]
    for number, fetch in enumerate(fine):
        Follower(hub, WatchKey(b"ann", number), fetch)
    other = FakePoller(clock, State(1))
    Follower(hub, WatchKey(b"bob", 0), other)
    await clock.advance(5)
    Follower(hub, WatchKey(b"ann", 99), FakePoller(clock, throttled(60), State(99)))
    await settle()
    before = [fetch.count for fetch in fine]
    await clock.advance(59)
    assert [fetch.count for fetch in fine] == before
    assert other.count > 50
    await clock.advance(3)
    assert all(fetch.count > count for fetch, count in zip(fine, before, strict=True))
    resumed = sorted(fetch.times[count] for fetch, count in zip(fine, before, strict=True))
    assert len(set(resumed)) == len(resumed), "they continue one by one"
    await hub.aclose()


async def test_heartbeats_report_failures_and_the_next_poll(clock: SteppedClock) -> None:
    failure = UpstreamStatusError(503, "no", retry_after=40)
    fetch = FakePoller(clock, State(1), failure)
    hub = make_hub(clock)
    with hub.watch(ANN, fetch) as watcher:
        assert isinstance(await _next(watcher, clock), StateChange)
        no_change = await _next(watcher, clock, 0.1)
        assert isinstance(no_change, NoChange)
        assert (no_change.failures, no_change.last_failure) == (0, None)
        assert no_change.next_poll_time is not None
        assert clock.time() < no_change.next_poll_time <= clock.time() + 1
        no_change = await _next(watcher, clock, 10)
        assert isinstance(no_change, NoChange)
        assert (no_change.failures, no_change.last_failure) == (1, failure)
        assert no_change.next_poll_time is not None
        assert no_change.next_poll_time == pytest.approx(clock.time() + 31, abs=2)
    await assert_nothing_left(hub, clock)


async def test_a_heartbeat_during_a_poll_names_no_next_one(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    with hub.watch(ANN, FakePoller(clock, Hang)) as watcher:
        assert await _next(watcher, clock, 5) == NoChange(None, 0, None)


async def no_change(watcher: Watcher[State]) -> NoChange:
    """Return the contents of a heartbeat at this moment."""
    while isinstance(update := await watcher.next(until=0.0), StateChange):
        pass
    return update


async def _next(watcher: Watcher[State], clock: SteppedClock, seconds: float = 5) -> StateChange[State] | NoChange:
    waiting = asyncio.create_task(watcher.next(clock.now + seconds))
    await settle()
    if not waiting.done():
        await clock.advance(seconds)
    return await waiting


async def test_a_slow_watcher_gets_the_latest_state_and_the_end(
    clock: SteppedClock,
) -> None:
    fetch = FakePoller(clock, *[State(number) for number in range(1, 1001)], State(1001, last=True))
    hub = make_hub(clock)
    quick = Follower(hub, ANN, fetch)
    with hub.watch(ANN, fetch) as slow:
        await settle()
        assert await slow.next(FAR) == StateChange(State(1), 0, last=False)
        while quick.values[-1] < 900:
            await clock.advance(1)
        assert await slow.next(FAR) == StateChange(State(900), 898, last=False)
        await clock.advance(200)
        assert await slow.next(FAR) == StateChange(State(1001, last=True), 100, last=True)
    assert quick.values == list(range(1, 1002))
    await assert_nothing_left(hub, clock)


async def test_a_known_first_state_is_not_repeated(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1), State(1), State(2), State(1), State(3, last=True))
    hub = make_hub(clock)
    resumed = Follower(hub, ANN, fetch, seen=lambda state: state.value == 1)
    await clock.advance(10)
    assert resumed.values == [2, 1, 3]
    assert [update.skipped for update in resumed.got if isinstance(update, StateChange)] == [0, 0, 0]


async def test_a_known_last_state_is_repeated(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    resumed = Follower(hub, ANN, FakePoller(clock, State(1, last=True)), seen=lambda _: True)
    await settle()
    assert resumed.values == [1]


async def test_polls_slow_down_as_a_watch_ages(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1))
    hub = make_hub(clock, shortest=0.25, longest=5)
    follower = Follower(hub, ANN, fetch)
    await settle()
    assert fetch.times == [clock.now]
    await clock.advance(300)
    assert all(0.25 <= gap <= 5 for gap in fetch.gaps)
    assert fetch.gaps[0] <= 0.3
    assert fetch.gaps[-20:] == pytest.approx([5.0] * 20), "the longest interval has no jitter"
    assert len(set(fetch.gaps[:20])) > 15, "there is jitter"
    await follower.leave()


async def test_a_stuck_poll_is_cut_off_and_counts_as_a_failure(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, Hang)
    hub = make_hub(clock, outage=30)
    follower = Follower(hub, ANN, fetch)
    other = Follower(hub, BOB, FakePoller(clock, State(1)))
    await clock.advance(29)
    assert len(other.values) == 1
    await clock.advance(2)
    with pytest.raises(UpstreamOutage) as caught:
        await follower.task
    assert isinstance(caught.value.last, UpstreamTimeout)
    assert fetch.cancelled == 3, "a poll that hangs leaves time for others"
    await other.leave()
    await assert_nothing_left(hub, clock)


async def test_waiting_for_a_slot_is_no_failure(clock: SteppedClock) -> None:
    hub = make_hub(clock, outage=10, slots=1)
    stuck = Follower(hub, WatchKey(b"ann", 1), FakePoller(clock, Hang))
    waiting = Follower(hub, WatchKey(b"ann", 2), FakePoller(clock, State(7, last=True)), every=2)
    await clock.advance(3)
    assert waiting.values == []
    assert isinstance(waiting.got[0], NoChange)
    assert waiting.got[0].failures == 0
    await clock.advance(2)
    assert waiting.values == [7]
    await clock.advance(20)
    with pytest.raises(UpstreamOutage):
        await stuck.task


@pytest.mark.parametrize("failure", [asyncio.CancelledError(), RuntimeError("unforeseen")], ids=["cancelled", "raised"])
async def test_an_unexpected_error_ends_all_watchers(clock: SteppedClock, failure: BaseException) -> None:
    async def fetch(_: PauseTimeout) -> State:
        raise failure

    hub = make_hub(clock)
    with hub.watch(ANN, fetch) as watcher:
        with pytest.raises(GatewayError, match=r"the poll (was cancelled|failed)") as caught:
            await watcher.next(FAR)
        assert caught.value.__cause__ is (failure if isinstance(failure, Exception) else None)
    await assert_nothing_left(hub, clock)


async def test_watchers_are_ended_in_slices(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    fetch = FakePoller(clock, State(1))
    followers = [Follower(hub, ANN, fetch) for _ in range(100)]
    await settle()
    waits = iter(range(1, 101))
    ending = asyncio.create_task(hub.end_watchers(lambda: Draining(retry_after=next(waits)), clock.now + 10))
    await clock.advance(5)
    assert 30 <= sum(follower.task.done() for follower in followers) <= 70
    await clock.advance(4.5)
    assert ending.done(), "before its limit"
    errors = [follower.task.exception() for follower in followers]
    assert {error.retry_after for error in errors if isinstance(error, Draining)} == set(range(1, 101))
    assert all(follower.values == [1] for follower in followers)
    await assert_nothing_left(hub, clock)


async def test_a_subscription_is_woken_when_failing_starts_and_stops(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    same = State(1)
    fetch = FakePoller(clock, same, same, lost(), lost(), same, same, State(2), State(3, last=True))
    told: list[object] = []

    def wake() -> None:
        change = subscription.take()
        told.append(subscription.no_change().failures if change is None else change.state.value)

    subscription = hub.subscribe(ANN, fetch, None, wake, group=FakeGroup(clock))
    assert subscription.take() is None
    await clock.advance(1_000)
    assert told == [1, 1, 0, 2, 3]
    hub.leave(subscription)
    await assert_nothing_left(hub, clock)


async def test_a_subscription_that_leaves_stops_its_loop(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    fetch = FakePoller(clock, State(1))
    subscription = hub.subscribe(ANN, fetch, None, lambda: None, group=FakeGroup(clock))
    follower = Follower(hub, BOB, FakePoller(clock, State(1)))
    await clock.advance(10)
    polls = fetch.count
    hub.leave(subscription)
    assert (hub.watcher_count, hub.loop_count) == (1, 1)
    await clock.advance(100)
    assert fetch.count == polls
    follower.task.cancel()
    await assert_nothing_left(hub, clock)


async def test_a_drain_ends_a_group_in_one_step(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    fetch = FakePoller(clock, State(1))
    groups = [FakeGroup(clock) for _ in range(40)]
    subscriptions = [
        hub.subscribe(WatchKey(b"ann", number), fetch, None, lambda: None, group=group)
        for number in range(5)
        for group in groups
    ]
    await settle()
    ending = asyncio.create_task(hub.end_watchers(lambda: Draining(retry_after=1), clock.now + 10))
    await clock.advance(10)
    assert ending.done()
    assert all(len(group.ended) == 1 for group in groups), "each group is ended once"
    assert len({group.ended[0] for group in groups}) == 20, "the groups are spread"
    hub.leave_all(subscriptions)
    await assert_nothing_left(hub, clock)


async def test_thousands_of_watches_are_left_in_steps(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    group = FakeGroup(clock)

    def subscriptions(owner: bytes) -> list[Subscription[State]]:
        fetch = FakePoller(clock, State(1))
        return [
            hub.subscribe(WatchKey(owner, number), fetch, None, lambda: None, group=group)
            for number in range(LEAVE_BATCH)
        ]

    few, first, second = map(subscriptions, (b"ann", b"bob", b"eve"))
    hub.leave_all(few)
    assert hub.watcher_count == 2 * LEAVE_BATCH, "few are left immediately"
    # Streams that end together do not leave more in a step than one.
    hub.leave_all([*first, *second[1:]])
    hub.leave_all(second[:1])
    counts = [hub.watcher_count]
    await asyncio.sleep(0)
    counts.append(hub.watcher_count)
    assert counts == [LEAVE_BATCH, 0]
    await assert_nothing_left(hub, clock)


async def test_a_cancellation_at_any_moment_leaves_nothing_behind() -> None:
    """Cancel a watcher after each possible number of rounds of the event loop."""
    for rounds in range(120):
        clock = SteppedClock()
        hub = make_hub(clock, slots=1)
        fetch = FakePoller(clock, State(1), lost(), State(2), throttled(1), Hang)
        follower = Follower(hub, ANN, fetch)
        for _ in range(rounds):
            await asyncio.sleep(0)
            if clock.pending:
                await clock.advance(0.2)
        if not follower.task.done():
            follower.task.cancel()
        await asyncio.wait([follower.task])
        await assert_nothing_left(hub, clock, reading=100 + UNWATCHED_SECONDS)


async def test_joining_when_the_last_one_leaves_starts_a_loop(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    old, new = FakePoller(clock, State(1)), FakePoller(clock, State(5, last=True))
    first = Follower(hub, ANN, old)
    await clock.advance(0.5)
    first.task.cancel()
    second = Follower(hub, ANN, new)
    await settle()
    assert second.values == [5]
    assert old.count == 1
    await asyncio.wait([first.task])
    await assert_nothing_left(hub, clock)


async def test_joining_when_the_last_one_leaves_shares_its_read(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    old, new = SlowPoller(clock, State(5, last=True)), FakePoller(clock, State(6))
    first = Follower(hub, ANN, old)
    await clock.advance(1)
    first.task.cancel()
    second = Follower(hub, ANN, new)
    await clock.advance(4)
    assert (second.values, new.count) == ([5], 0)
    await asyncio.wait([first.task])
    await assert_nothing_left(hub, clock)


async def test_keys_of_ended_loops_are_forgotten(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    for number in range(200):
        follower = Follower(hub, WatchKey(b"ann", number), FakePoller(clock, State(1, last=True)))
        await settle()
        assert follower.task.done()
    await assert_nothing_left(hub, clock)


async def test_a_recent_result_costs_no_poll(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1), State(2, last=True))
    hub = make_hub(clock)
    first = Follower(hub, ANN, fetch)
    await clock.advance(2)
    assert first.values == [1, 2]
    late = [Follower(hub, ANN, fetch) for _ in range(10)]
    other = Follower(hub, BOB, FakePoller(clock, UpstreamStatusError(404, "not yours")))
    await settle()
    assert all(follower.values == [2] for follower in late)
    assert fetch.count == 2
    with pytest.raises(UpstreamStatusError):
        await other.task
    await clock.advance(KEEP_RESULT_SECONDS)
    later = Follower(hub, ANN, fetch)
    await settle()
    assert (later.values, fetch.count) == ([2], 3)
    await clock.advance(KEEP_RESULT_SECONDS)
    await assert_nothing_left(hub, clock)


async def test_recent_results_are_bounded_and_the_oldest_dropped(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    fetches = [FakePoller(clock, State(1, last=True, size=KEEP_BYTES // 3)) for _ in range(4)]
    huge = FakePoller(clock, State(1, last=True, size=KEEP_BYTES + 1))
    for _ in range(2):
        for number, fetch in enumerate([*fetches, huge]):
            Follower(hub, WatchKey(b"ann", number), fetch)
            await settle()
    # The first was dropped for the fourth, then the second for the first, and so on.
    assert [fetch.count for fetch in fetches] == [2, 2, 2, 2]
    assert huge.count == 2
    for number in (1, 2, 3):
        Follower(hub, WatchKey(b"ann", number), fetches[number])
    await settle()
    assert [fetch.count for fetch in fetches] == [2, 2, 2, 2]
    await clock.advance(KEEP_RESULT_SECONDS)
    await assert_nothing_left(hub, clock)


@pytest.mark.slow
async def test_an_hour_without_reading_keeps_no_states(clock: SteppedClock) -> None:
    """Neither a watcher that reads nor one that does not keeps any of 100,000 states."""
    steps = 100_000
    fetch = FakePoller(clock, State(0))
    # A short limit, because the stepped clock keeps a cancelled timer until its moment.
    hub = make_hub(clock, shortest=0.03, longest=0.03, outage=1)
    given = 0
    with hub.watch(ANN, fetch) as slow, hub.watch(ANN, fetch) as quick:
        await slow.next(FAR)
        gc.collect()
        blocks = sys.getallocatedblocks()
        for number in range(1, steps + 1):
            fetch.script[0] = State(number, last=number == steps)
            fetch.times.clear()
            await clock.advance(0.03)
            update = await quick.next(FAR)
            assert isinstance(update, StateChange)
            given += 1 + update.skipped
        gc.collect()
        grown = sys.getallocatedblocks() - blocks
        assert given == steps
        assert await slow.next(FAR) == StateChange(State(steps, last=True), steps - 1, last=True)
    # Other code of the process may allocate a little. Keeping the states would take some blocks for each step.
    assert grown < steps / 10, "blocks of memory"


async def test_a_429_during_the_wait_for_a_slot_delays_the_poll(clock: SteppedClock) -> None:
    hub = make_hub(clock, slots=1)
    throttling = Follower(hub, WatchKey(b"ann", 1), SlowPoller(clock, throttled(60), State(1, last=True)))
    await settle()
    waiting_fetch = FakePoller(clock, State(7, last=True))
    waiting = Follower(hub, WatchKey(b"ann", 2), waiting_fetch)
    await clock.advance(60)
    assert waiting_fetch.count == 0
    await clock.advance(20)
    assert (waiting.values, throttling.values) == ([7], [1])
    await assert_nothing_left(hub, clock)


async def test_a_shorter_delay_does_not_end_a_longer_one(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    fetches = [SlowPoller(clock, throttled(60), State(1)), SlowPoller(clock, throttled(2), State(1), takes=6)]
    for number, fetch in enumerate(fetches):
        Follower(hub, WatchKey(b"ann", number), fetch)
    await clock.advance(64)
    assert [fetch.count for fetch in fetches] == [1, 1]
    await clock.advance(20)
    assert all(fetch.count > 1 for fetch in fetches)
    await hub.aclose()


async def test_closing_stops_loops_and_forgets_results(clock: SteppedClock) -> None:
    hub = make_hub(clock)
    Follower(hub, WatchKey(b"ann", 1), FakePoller(clock, State(1, last=True)))
    watched = Follower(hub, WatchKey(b"ann", 2), FakePoller(clock, Hang))
    left = Follower(hub, WatchKey(b"ann", 3), FakePoller(clock, Hang))
    await settle()
    left.task.cancel()
    await hub.aclose()
    others = asyncio.all_tasks() - {asyncio.current_task(), watched.task, left.task}
    assert others == set()
    watched.task.cancel()
    left.task.cancel()
    await asyncio.wait([watched.task, left.task])
    assert clock.pending == 0


async def test_hanging_polls_of_one_credential_delay_no_other(clock: SteppedClock) -> None:
    hub = make_hub(clock, slots=8, outage=600)
    hanging = [FakePoller(clock, Hang) for _ in range(20)]
    anns = [Follower(hub, WatchKey(b"ann", number), fetch) for number, fetch in enumerate(hanging)]
    await settle()
    bob = Follower(hub, BOB, FakePoller(clock, State(1), State(2), State(3, last=True)))
    await clock.advance(5)
    assert bob.values == [1, 2, 3]
    assert sum(fetch.count for fetch in hanging) == 6, "three quarters of the slots"
    for follower in anns:
        await follower.leave()
    await assert_nothing_left(hub, clock, reading=200 + UNWATCHED_SECONDS)


async def test_two_greedy_credentials_do_not_delay_a_third(clock: SteppedClock) -> None:
    hub = make_hub(clock, slots=16, outage=600)
    hanging = [FakePoller(clock, Hang) for _ in range(80)]
    greedy = [Follower(hub, WatchKey((b"ann", b"eve")[n % 2], n), fetch) for n, fetch in enumerate(hanging)]
    await settle()
    started = clock.now
    bob = FakePoller(clock, State(1), State(2), State(3, last=True))
    modest = Follower(hub, BOB, bob)
    await clock.advance(5)
    assert modest.values == [1, 2, 3]
    assert bob.times[0] == started, "there was a free slot"
    assert 13 <= sum(fetch.count for fetch in hanging) <= 15
    for follower in greedy:
        await follower.leave()
    await assert_nothing_left(hub, clock, reading=200 + UNWATCHED_SECONDS)


async def test_credentials_take_turns_for_poll_slots(clock: SteppedClock) -> None:
    """One slot, polls of a second, a credential with fifty jobs, and four with one each."""
    hub = make_hub(clock, slots=1, outage=600)
    anns = [SlowPoller(clock, State(1), takes=1) for _ in range(50)]
    others = [SlowPoller(clock, State(1), takes=1) for _ in range(4)]
    followers = [Follower(hub, WatchKey(b"ann", number), fetch) for number, fetch in enumerate(anns)]
    followers += [Follower(hub, WatchKey(b"other %d" % number, 0), fetch) for number, fetch in enumerate(others)]
    await clock.advance(100)
    assert [fetch.count for fetch in others] == pytest.approx([20] * 4, abs=2)
    assert sum(fetch.count for fetch in anns) == pytest.approx(20, abs=3)
    for follower in followers:
        await follower.leave()
    await assert_nothing_left(hub, clock, reading=1 + UNWATCHED_SECONDS)


async def test_polls_over_the_rate_wait_with_heartbeats(clock: SteppedClock) -> None:
    """Forty jobs that are due each second, with ten polls a second."""
    hub = make_hub(clock, slots=100, rate=10.0, outage=3.0)
    fetches = [FakePoller(clock, State(1)) for _ in range(40)]
    anns = [Follower(hub, WatchKey(b"ann", number), fetch, every=1.0) for number, fetch in enumerate(fetches)]
    bob = FakePoller(clock, State(1))
    other = Follower(hub, BOB, bob)
    await clock.advance(100)
    assert sum(fetch.count for fetch in fetches) == pytest.approx(1_000, abs=20)
    assert all(fetch.count == pytest.approx(25, abs=2) for fetch in fetches), "they take turns"
    assert bob.count == pytest.approx(100, abs=15), "another credential has its own rate"
    for follower in anns:
        no_change = [each for each in follower.got if isinstance(each, NoChange)]
        assert len(no_change) >= 95
        assert not any(each.failures for each in no_change)
        assert not follower.task.done(), "waiting is no outage"
        await follower.leave()
    await other.leave()
    await assert_nothing_left(hub, clock)


async def test_waiting_for_the_rate_does_not_count_as_outage(clock: SteppedClock) -> None:
    hub = make_hub(clock, outage=10, rate=0.1)
    fetch = FakePoller(clock, lost(), lost(), State(7, last=True))
    follower = Follower(hub, ANN, fetch)
    await clock.advance(21)
    assert (fetch.count, follower.values) == (3, [7])
    await assert_nothing_left(hub, clock)


async def test_a_429_lowers_the_poll_rate_for_minutes(
    clock: SteppedClock,
) -> None:
    hub = make_hub(clock, slots=100, rate=50.0)
    fetches = [FakePoller(clock, State(1)) for _ in range(40)]
    fetches.append(FakePoller(clock, *[State(1)] * 20, throttled(2), State(1)))
    bob = FakePoller(clock, State(1))
    followers = [Follower(hub, WatchKey(b"ann", number), fetch) for number, fetch in enumerate(fetches)]
    followers.append(Follower(hub, BOB, bob))

    async def polls(seconds: int) -> float:
        before = sum(fetch.count for fetch in fetches)
        await clock.advance(seconds)
        return (sum(fetch.count for fetch in fetches) - before) / seconds

    await clock.advance(5)
    assert await polls(10) == pytest.approx(41, rel=0.1)
    await clock.advance(15)
    assert await polls(20) == pytest.approx(22, rel=0.15), "half of what it was"
    await clock.advance(600)
    assert await polls(10) == pytest.approx(41, rel=0.1)
    assert bob.count == pytest.approx(660, rel=0.1)
    for follower in followers:
        await follower.leave()
    await assert_nothing_left(hub, clock)


async def test_waiting_for_a_slot_does_not_count_as_outage(clock: SteppedClock) -> None:
    hub = make_hub(clock, outage=10, slots=1)
    failing = SlowPoller(clock, lost(), State(7, last=True), takes=0.1)
    waiting = Follower(hub, WatchKey(b"ann", 99), failing)
    await clock.advance(0.1)
    assert failing.count == 1
    hanging = [Follower(hub, WatchKey(b"ann", number), FakePoller(clock, Hang)) for number in range(4)]
    await clock.advance(12)
    assert failing.count == 1, "it waits behind four polls that hang"
    await clock.advance(5)
    assert waiting.values == [7]
    await clock.advance(120)
    for follower in hanging:
        assert isinstance(follower.task.exception(), UpstreamOutage)
    await assert_nothing_left(hub, clock)


@pytest.mark.parametrize("seconds", [0.0, 0.01])
async def test_a_tiny_retry_after_keeps_the_backoff(clock: SteppedClock, seconds: float) -> None:
    fetch = FakePoller(clock, UpstreamStatusError(503, "no", retry_after=seconds))
    hub = make_hub(clock, shortest=0.05, longest=5.0, outage=60)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(59)
    assert fetch.count < 120, "about two a second, not twenty"
    await follower.leave()


def refused(status: int = 404) -> UpstreamStatusError:
    return UpstreamStatusError(status, "no")


def page(status: int = 404) -> UpstreamStatusError:
    """Return the error page of a proxy."""
    return UpstreamStatusError(status, "no", from_api=False)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 422])
async def test_one_refusal_between_successes_ends_nothing(clock: SteppedClock, status: int) -> None:
    fetch = FakePoller(clock, State(1), refused(status), State(2), refused(status), State(3, last=True))
    hub = make_hub(clock)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(10)
    assert follower.values == [1, 2, 3]
    await assert_nothing_left(hub, clock)


@pytest.mark.parametrize(
    ("reads", "told"),
    [
        ([404, 404], 404),
        ([404, 503, 404], 404),
        ([403, 404, 404], 404),
        ([403, 404, 403, 403], 403),
        ([404, "page", 404], 404),
        ([404, "lost", 499, 404], 404),
    ],
    ids=str,
)
async def test_a_refusal_counts_when_confirmed(clock: SteppedClock, reads: list[int | str], told: int) -> None:
    entries = [page() if each == "page" else lost() if each == "lost" else refused(int(each)) for each in reads]
    fetch = FakePoller(clock, State(1), *entries)
    hub = make_hub(clock)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(20)
    with pytest.raises(UpstreamStatusError) as caught:
        await follower.task
    assert caught.value.http_status == told
    assert fetch.count == 1 + len(reads)
    await assert_nothing_left(hub, clock)


async def test_a_refusal_is_confirmed_after_about_a_second(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1), UpstreamStatusError(403, "no", retry_after=60))
    hub = make_hub(clock, shortest=5, longest=60)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(10)
    assert isinstance(follower.task.exception(), UpstreamStatusError)
    assert 0.8 <= fetch.gaps[1] <= 1.2


async def test_refusals_that_always_differ_are_an_outage(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1), *[refused(403), refused(404)] * 50)
    hub = make_hub(clock, outage=30)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(32)
    with pytest.raises(UpstreamOutage):
        await follower.task
    await assert_nothing_left(hub, clock)


async def test_a_refusal_of_an_unknown_job_is_final(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, lost(), refused(), State(1))
    hub = make_hub(clock)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(10)
    with pytest.raises(UpstreamStatusError):
        await follower.task
    assert fetch.count == 2
    await assert_nothing_left(hub, clock)


async def test_a_refusal_is_confirmed_for_a_resumed_client(clock: SteppedClock) -> None:
    """A resume token proves that the job exists, also to a loop that another watcher started."""
    for fresh_loop in (True, False):
        hub = make_hub(clock)
        fetch = SlowPoller(clock, refused(), State(1, last=True), takes=0.5)
        others = [] if fresh_loop else [Follower(hub, ANN, fetch)]
        await settle()
        with hub.watch(ANN, fetch, exists=True) as watcher:
            assert await _next(watcher, clock, 5) == StateChange(State(1, last=True), 0, last=True)
        for other in others:
            assert other.values == [1]
        await assert_nothing_left(hub, clock)


@pytest.mark.parametrize("later", [0.0, KEEP_READ_SECONDS, KEEP_READ_SECONDS + 1])
async def test_a_refusal_is_confirmed_if_an_earlier_watch_saw_the_job(clock: SteppedClock, later: float) -> None:
    hub = make_hub(clock)
    first = Follower(hub, ANN, FakePoller(clock, State(1)))
    await settle()
    await first.leave()
    await settle()
    assert hub.loop_count == 0
    clock.now += later
    again, other = (Follower(hub, key, FakePoller(clock, refused(), State(2, last=True))) for key in (ANN, BOB))
    await clock.advance(5)
    assert again.values == ([2] if later <= KEEP_READ_SECONDS else [])
    if not again.values:
        assert isinstance(again.task.exception(), UpstreamStatusError)
    assert isinstance(other.task.exception(), UpstreamStatusError), "the other credential does not know the job"
    await assert_nothing_left(hub, clock)


async def test_remembered_keys_are_bounded(clock: SteppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.watch.recent.MAX_READ", 3)
    keys = ReadKeys(clock)
    for number in range(5):
        keys.add(number)
    assert [number in keys for number in range(5)] == [False, False, True, True, True]
    clock.now += KEEP_READ_SECONDS + 1
    keys.add(9)
    keys.add(10)
    assert keys.count == 2


async def test_a_late_watcher_of_a_refusal_gets_state_and_error(clock: SteppedClock) -> None:
    fetch = FakePoller(clock, State(1), refused(), refused())
    hub = make_hub(clock)
    first = Follower(hub, ANN, fetch)
    await clock.advance(1.5)
    assert fetch.count == 2
    late = Follower(hub, ANN, fetch, every=0.1)
    await clock.advance(2)
    for follower in (first, late):
        assert follower.values == [1]
        with pytest.raises(UpstreamStatusError):
            await follower.task
    no_change = [each for each in late.got if isinstance(each, NoChange)]
    assert no_change
    assert all(each.failures == 1 and isinstance(each.last_failure, UpstreamStatusError) for each in no_change)
    await assert_nothing_left(hub, clock)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 451])
async def test_the_page_of_a_proxy_is_transient_on_every_watch(clock: SteppedClock, status: int) -> None:
    fetch = FakePoller(clock, *[page(status)] * 5, State(1), *[page(status)] * 5, State(2, last=True))
    hub = make_hub(clock)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(60)
    assert follower.values == [1, 2]
    await assert_nothing_left(hub, clock)


def make_hub_of_sent(clock: SteppedClock, age: float, timeout: float | None = None, outage: float = 300) -> Hub[State]:
    """Create a hub whose job of ann was sent `age` seconds ago."""
    jobs = InMemorySentJobs(clock)
    jobs.remember(ANN.job, timeout)
    clock.now += age
    return make_hub(clock, outage=outage, sent_jobs=jobs)


@pytest.mark.parametrize("status", [401, 403, 404, 409, 410])
@pytest.mark.parametrize("age", [0.0, JUST_SENT_SECONDS])
async def test_refusals_of_a_job_just_sent_end_no_watch(clock: SteppedClock, status: int, age: float) -> None:
    hub = make_hub_of_sent(clock, age)
    fetch = FakePoller(clock, *[refused(status)] * 3, State(1), State(2, last=True))
    follower = Follower(hub, ANN, fetch)
    await clock.advance(60)
    assert follower.values == [1, 2]
    await assert_nothing_left(hub, clock)


async def test_refusals_of_a_job_just_sent_count_after_the_grace(clock: SteppedClock) -> None:
    hub = make_hub_of_sent(clock, 0)
    fetch = FakePoller(clock, refused())
    follower = Follower(hub, ANN, fetch)
    await clock.advance(GRACE_SECONDS - 0.1)
    assert not follower.task.done()
    await clock.advance(2.1)
    with pytest.raises(UpstreamStatusError):
        await follower.task
    assert fetch.times[-1] >= fetch.times[0] + GRACE_SECONDS
    await assert_nothing_left(hub, clock)


async def test_a_job_sent_a_while_ago_has_no_grace(clock: SteppedClock) -> None:
    hub = make_hub_of_sent(clock, JUST_SENT_SECONDS + 0.1)
    fetch = FakePoller(clock, refused())
    follower = Follower(hub, ANN, fetch)
    await clock.advance(2)
    assert isinstance(follower.task.exception(), UpstreamStatusError)
    assert fetch.count == 2, "confirmed, because the job is known"


async def test_the_grace_holds_for_every_credential(clock: SteppedClock) -> None:
    hub = make_hub_of_sent(clock, 0)
    followers = [Follower(hub, key, FakePoller(clock, refused(), State(1, last=True))) for key in (ANN, BOB)]
    other = Follower(hub, WatchKey(b"bob", 43), FakePoller(clock, refused()))
    await clock.advance(60)
    assert [each.values for each in followers] == [[1], [1]]
    assert isinstance(other.task.exception(), UpstreamStatusError)


async def test_a_short_outage_limit_bounds_the_grace(clock: SteppedClock) -> None:
    hub = make_hub_of_sent(clock, 0, outage=5)
    follower = Follower(hub, ANN, FakePoller(clock, refused()))
    await clock.advance(6)
    error = follower.task.exception()
    assert isinstance(error, UpstreamOutage)
    assert error.http_status == 404


@pytest.mark.parametrize("timeout", [60.0, None])
async def test_a_job_beyond_its_timeout_is_overdue(clock: SteppedClock, timeout: float | None) -> None:
    hub = make_hub_of_sent(clock, 10, timeout)
    limit = (LONGEST_JOB_SECONDS if timeout is None else timeout) + OVERDUE_MARGIN_SECONDS
    follower = Follower(hub, ANN, FakePoller(clock, State(1)))
    await clock.advance(limit - 10.1)
    assert not follower.task.done()
    await clock.advance(1.2)
    with pytest.raises(JobOverdue, match=f"longer than its timeout of {limit - OVERDUE_MARGIN_SECONDS:.0f} s"):
        await follower.task
    assert follower.values == [1]
    await assert_nothing_left(hub, clock)


async def test_a_job_of_unknown_timeout_is_overdue_after_a_day(clock: SteppedClock) -> None:
    hub = make_hub(clock, shortest=60, longest=60)
    follower = Follower(hub, ANN, FakePoller(clock, State(1)))
    await clock.advance(LONGEST_JOB_SECONDS + OVERDUE_MARGIN_SECONDS - 1)
    assert not follower.task.done()
    await clock.advance(61)
    with pytest.raises(JobOverdue, match="longer than a day"):
        await follower.task
    await assert_nothing_left(hub, clock)


async def test_an_overdue_state_is_delivered_before_the_error(clock: SteppedClock) -> None:
    hub = make_hub_of_sent(clock, 0, 60)
    fetch = FakePoller(clock, State(1))
    follower = Follower(hub, ANN, fetch)
    await clock.advance(359.5)
    fetch.script[0] = State(2)
    await clock.advance(1)
    assert isinstance(follower.task.exception(), JobOverdue)
    assert follower.values == [1, 2]


async def test_a_new_watch_of_an_overdue_job_gets_its_state_first(clock: SteppedClock) -> None:
    hub = make_hub_of_sent(clock, 359, 60)
    for wait in (2, 0):
        follower = Follower(hub, ANN, FakePoller(clock, State(1)))
        await settle()
        await clock.advance(wait)
        assert isinstance(follower.task.exception(), JobOverdue)
        assert follower.values == [1]
    await assert_nothing_left(hub, clock)


@pytest.mark.parametrize("lasts", [0.5, 30.0, 60.0])
@pytest.mark.parametrize("takes", [0.0, 0.1, 4.0])
async def test_short_watches_learn_of_an_overdue_job(clock: SteppedClock, lasts: float, takes: float) -> None:
    hub = make_hub_of_sent(clock, 0, 1)
    fetch = SlowPoller(clock, State(1), takes=takes)
    while clock.now < 2 * OVERDUE_MARGIN_SECONDS + 1_000:
        follower = Follower(hub, ANN, fetch, seen=lambda _: True)
        await settle()
        await clock.advance(lasts)
        if follower.task.done():
            break
        await follower.leave()
    assert isinstance(follower.task.exception(), JobOverdue)


async def test_an_end_is_never_overdue(clock: SteppedClock) -> None:
    hub = make_hub_of_sent(clock, 0, 60)
    fetch = FakePoller(clock, State(1), *[lost()] * 500)
    follower = Follower(hub, ANN, fetch)
    await clock.advance(250)
    fetch.script.clear()
    fetch.script.append(State(2, last=True))
    await clock.advance(200)
    assert follower.values == [1, 2]


async def test_sent_jobs_are_remembered_within_a_bound(clock: SteppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.watch.sent_jobs.MAX_JOBS", 3)
    jobs = InMemorySentJobs(clock)
    for number in range(5):
        jobs.remember(number, 60.0)
    assert [jobs.find(number) is not None for number in range(5)] == [False, False, True, True, True]
    clock.now += KEEP_JOB_SECONDS + 1
    assert jobs.find(4) is None
    jobs.remember(9, None)
    jobs.remember(10, None)
    assert jobs.count == 2


async def test_an_unwatched_outage_ends_no_later_watch(clock: SteppedClock) -> None:
    hub = make_hub(clock, outage=20)
    fetch = SlowPoller(clock, lost(), takes=4)
    first = Follower(hub, ANN, fetch)
    await clock.advance(3)
    await first.leave()
    await clock.advance(UNWATCHED_SECONDS)
    late = Follower(hub, ANN, fetch)
    await clock.advance(19)
    assert not late.task.done()
    await clock.advance(10)
    assert isinstance(late.task.exception(), UpstreamOutage)
    await assert_nothing_left(hub, clock)


async def test_an_outage_between_two_reads_ends_no_later_watch(clock: SteppedClock) -> None:
    """Reads fail for short watches, and the last one leaves between two reads."""
    failure = UpstreamConnectionLost("lost")
    failure.retry_after = 12.0
    hub = make_hub(clock, outage=20)
    fetch = SlowPoller(clock, failure, takes=2)
    for failures in range(1, 4):
        with hub.watch(ANN, fetch) as leaves_during_the_read:
            await settle()
            while (await no_change(leaves_during_the_read)).next_poll_time is not None:
                await clock.advance(0.5)
        with hub.watch(ANN, fetch) as leaves_after_it:
            while fetch.count < failures:
                await clock.advance(0.5)
            assert (await no_change(leaves_after_it)).failures == failures, "one loop"
        await clock.advance(8)
    late = Follower(hub, ANN, fetch)
    await clock.advance(19)
    assert not late.task.done()
    await clock.advance(25)
    assert isinstance(late.task.exception(), UpstreamOutage)


async def test_an_outage_before_a_read_in_flight_ends_no_later_watch(clock: SteppedClock) -> None:
    hub = make_hub(clock, outage=20)
    fetch = SlowPoller(clock, lost(), takes=5)
    with hub.watch(ANN, fetch) as first:
        await clock.advance(15)
        while (await no_change(first)).next_poll_time is not None:
            await clock.advance(0.1)
        await clock.advance(0.5)
    late = Follower(hub, ANN, fetch)
    await clock.advance(19)
    assert not late.task.done()
    await clock.advance(10)
    assert isinstance(late.task.exception(), UpstreamOutage)


async def test_an_outage_that_cuts_off_a_read_ends_no_later_watch(clock: SteppedClock) -> None:
    hub = make_hub(clock, outage=20)
    fetch = FakePoller(clock, lost(), Hang)
    began = clock.now
    with hub.watch(ANN, fetch):
        while fetch.count < 4:
            await clock.advance(0.1)
    late = Follower(hub, ANN, fetch)
    await clock.advance(began + 20 - clock.now)
    assert fetch.cancelled == 3, "the read was cut off at the end of the outage"
    assert not late.task.done()
    await clock.advance(20)
    assert isinstance(late.task.exception(), UpstreamOutage)
    await assert_nothing_left(hub, clock)


async def test_running_time_before_a_watch_does_not_count(clock: SteppedClock) -> None:
    hub = make_hub(clock, shortest=60, longest=60)
    fetch = SlowPoller(clock, State(1), takes=4)
    await leave_during_a_read(hub, clock, fetch)
    with hub.watch(ANN, fetch) as watcher:
        await clock.advance(LONGEST_JOB_SECONDS)
        while (await no_change(watcher)).next_poll_time is not None:
            await clock.advance(0.1)
    late = Follower(hub, ANN, fetch)
    await clock.advance(LONGEST_JOB_SECONDS)
    assert not late.task.done()


async def leave_during_a_read(hub: Hub[State], clock: SteppedClock, fetch: SlowPoller) -> None:
    """Let the last watcher leave during a read, so that the loop outlives its watchers."""
    first = Follower(hub, ANN, fetch)
    await clock.advance(1)
    await first.leave()
    await clock.advance(fetch.takes)
    assert hub.loop_count == 1


@pytest.mark.parametrize("stays", [0.1, 2.0])
async def test_an_unwatched_loop_stays_for_15_seconds(
    clock: SteppedClock, monkeypatch: pytest.MonkeyPatch, stays: float
) -> None:
    """The last watcher leaves between two reads, which are 40 seconds apart. The loop waits for no rate."""
    turns: list[float] = []
    turn = RateLimiter.acquire

    async def counted(rate_limiter: RateLimiter, owner: bytes) -> None:
        turns.append(clock.now)
        await turn(rate_limiter, owner)

    monkeypatch.setattr(RateLimiter, "acquire", counted)
    hub = make_hub(clock, shortest=40, longest=40)
    await leave_during_a_read(hub, clock, fetch := SlowPoller(clock, State(1), takes=4))
    follower = Follower(hub, ANN, fetch)
    await clock.advance(stays)
    await follower.leave()
    await clock.advance(UNWATCHED_SECONDS - 0.1)
    assert hub.loop_count == 1
    await clock.advance(0.1)
    await assert_nothing_left(hub, clock)
    assert len(turns) == fetch.count == 1


async def test_a_watched_read_lets_the_loop_stop_immediately_again(clock: SteppedClock) -> None:
    hub = make_hub(clock, shortest=5, longest=5)
    await leave_during_a_read(hub, clock, fetch := SlowPoller(clock, State(1), takes=2))
    follower = Follower(hub, ANN, fetch)
    while fetch.count < 2:
        await clock.advance(0.5)
    await clock.advance(3)
    assert fetch.count == 2
    await follower.leave()
    await assert_nothing_left(hub, clock)
