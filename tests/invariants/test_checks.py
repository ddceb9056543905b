"""Tests of the checks: a history that keeps every promise, and histories that break each promise."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.invariants.checks import PROMISES, violations
from tests.invariants.history import Event, History, Kind, Poll, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

RESULT = b'{"r": 1}'


def poll(began: float, state: str = "", *, kind: Kind = Kind.STATE, **more: object) -> Poll:
    base = Poll("ann", 1, began, began + 0.1, kind, state, done=state == "success", loop="w")
    return replace(base, **more)  # type: ignore[arg-type]


def event(time: float, state: str, **more: object) -> Event:
    done = state == "success"
    base = Event(time, state, done, token=f"after {state}", held=RESULT if done else b"")
    return replace(base, **more)  # type: ignore[arg-type]


def beat(time: float, failures: int = 0, last_failure: str = "", token: str = "t") -> Event:
    return Event(time, heartbeat=True, token=token, failures=failures, last_failure=last_failure)


def good() -> History:
    """Return a history of one job with an outage and two watchers, one of them slow."""
    polls = [
        poll(1.0, "a"),
        poll(3.0, "a"),
        poll(5.0, "b"),
        poll(7.0, kind=Kind.PASSING, failure="UPSTREAM_UNAVAILABLE", retry_after=4.0),
        poll(12.0, "c"),
        poll(14.0, "success"),
        poll(1.0, "z", credential="bob", loop="bob"),
        poll(2.2, kind=Kind.REFUSED, failure="UPSTREAM_NOT_FOUND", credential="bob", loop="bob"),
        poll(3.0, kind=Kind.REFUSED, failure="UPSTREAM_NOT_FOUND", credential="bob", loop="bob"),
    ]
    quick = Watch("w", "ann", 1, joined=0.9, heartbeat=5.0, ended=14.1, status="OK", loop="w")
    quick.events = [
        event(1.1, "a"),
        event(5.1, "b"),
        beat(8.0, 1, "UPSTREAM_UNAVAILABLE"),
        event(12.1, "c"),
        event(14.1, "success"),
    ]
    slow = Watch("slow", "ann", 1, joined=2.0, heartbeat=15.0, ended=14.2, status="OK", loop="w")
    slow.events = [event(2.0, "a"), event(5.1, "b"), event(14.2, "success", skipped=1)]
    slow.asleep = [(5.05, 14.15)]
    bob = Watch("bob", "bob", 1, joined=0.9, heartbeat=15.0, ended=3.1, status="UPSTREAM_NOT_FOUND", loop="bob")
    bob.events = [event(1.1, "z")]
    return History(polls, [quick, slow, bob], {1: RESULT}, shortest=1.0, longest=5.0, outage=60.0, tolerance=0.01)


def outage(lasts: float) -> History:
    """Return a watch that gives up after some seconds of failures."""
    polls = [
        poll(1.0, "a"),
        *(poll(3.0 + n, kind=Kind.PASSING, failure="UPSTREAM_TIMEOUT") for n in range(0, int(lasts), 2)),
    ]
    watch = Watch("w", "ann", 1, joined=0.9, heartbeat=1e6, ended=3.0 + lasts, status="UPSTREAM_OUTAGE", loop="w")
    watch.events = [event(1.1, "a")]
    watch.last_failure = "UPSTREAM_TIMEOUT"
    return History(polls, [watch], {1: RESULT}, shortest=1.0, longest=5.0, outage=60.0, tolerance=0.01)


def test_a_correct_history_breaks_no_promise() -> None:
    assert violations(good()) == {}
    assert violations(outage(60)) == {}


def quick(history: History) -> list[Event]:
    return history.watches[0].events


def break_state_at_once_with_an_old_state(history: History) -> None:
    history.watches[1].joined = 6.0
    history.watches[1].asleep = []
    history.watches[1].events[0] = event(6.0, "a")


def break_state_at_once_with_a_state_that_was_seen(history: History) -> None:
    history.watches[0].resumed_from = "a"


def break_every_change_by_losing_one(history: History) -> None:
    del quick(history)[1]


def break_every_change_by_repeating_one(history: History) -> None:
    quick(history).insert(1, event(3.1, "a"))


def break_every_change_by_their_order(history: History) -> None:
    events = quick(history)
    events[1], events[3] = replace(events[3], time=5.1), replace(events[1], time=12.1)


def break_every_change_by_a_wrong_count(history: History) -> None:
    history.watches[1].events[2] = event(14.2, "success", skipped=2)


def break_one_end_with_two(history: History) -> None:
    quick(history).append(event(14.1, "success"))


def break_one_end_with_none(history: History) -> None:
    del quick(history)[-1]


def break_one_end_with_an_error(history: History) -> None:
    history.watches[0].status = "UPSTREAM_NOT_FOUND"


def break_one_end_with_half_a_result(history: History) -> None:
    quick(history)[-1] = event(14.1, "success", held=RESULT[:3])


def break_slow_watchers_with_a_queue(history: History) -> None:
    history.watches[1].events.insert(2, event(12.1, "c"))


def break_slow_watchers_with_an_old_state(history: History) -> None:
    history.watches[1].events[2] = event(14.2, "c")


def break_one_loop_with_overlapping_polls(history: History) -> None:
    history.polls.append(poll(5.05, "b", loop="slow"))


def break_one_loop_with_two(history: History) -> None:
    history.polls.append(poll(4.0, "a", loop="slow"))


def break_one_loop_by_haste(history: History) -> None:
    history.polls.append(poll(5.3, "b"))


def break_own_credential(history: History) -> None:
    history.watches[2].events[0] = event(1.1, "a")


def break_polled_while_watched_afterwards(history: History) -> None:
    history.polls.append(poll(20.0, "success"))


def break_polled_while_watched_with_a_poll_that_goes_on(history: History) -> None:
    history.polls.append(poll(14.12, kind=Kind.CUT, ended=40.0))


def break_reads_are_finished(history: History) -> None:
    history.polls[5] = poll(14.0, kind=Kind.CUT)
    for watch in history.watches[:2]:
        watch.status, watch.ended = "LEFT", 14.1
        watch.events = watch.events[:2]


def break_failures_reach_all(history: History) -> None:
    history.watches[2].ended = 9.0


def break_errors_are_true_with_an_error_of_nobody(history: History) -> None:
    history.watches[2].status = "UPSTREAM_PERMISSION_DENIED"


def break_errors_are_true_with_one_refusal(history: History) -> None:
    del history.polls[-2]


def break_errors_are_true_with_two_that_differ(history: History) -> None:
    history.polls[-2] = replace(history.polls[-2], failure="UPSTREAM_PERMISSION_DENIED")


def break_errors_are_true_with_a_job_that_was_just_sent(history: History) -> None:
    history.sent[1] = 0.5


def break_errors_are_true_without_another_look(history: History) -> None:
    history.polls[:6] = [poll(1.0, "a"), replace(history.polls[3], retry_after=3_600.0)]
    history.watches = [Watch("w", "ann", 1, 0.9, 1e6, ended=67.0, status="UPSTREAM_OUTAGE", loop="w")]
    history.watches[0].last_failure = "UPSTREAM_UNAVAILABLE"


def break_errors_are_true_with_a_passing_failure(history: History) -> None:
    del quick(history)[2:]
    history.watches[0].status = "UPSTREAM_UNAVAILABLE"


def break_outages_reach_all(history: History) -> None:
    history.watches[0].status = "UPSTREAM_OUTAGE"
    history.watches[0].ended = 12.5
    history.watches[1].asleep = []


def break_changes_at_once(history: History) -> None:
    quick(history)[1] = event(8.5, "b")


def break_backs_off(history: History) -> None:
    history.polls = [
        poll(1 + n / 4, kind=Kind.PASSING, failure="UPSTREAM_TIMEOUT", ended=1.1 + n / 4) for n in range(100)
    ]


def break_retry_after(history: History) -> None:
    history.polls.append(poll(9.0, "b"))


def break_retry_after_of_another_loop(history: History) -> None:
    history.polls[3] = replace(history.polls[3], throttled=True)
    history.polls.append(poll(9.0, "b", uid=2, loop="other"))
    history.watches.append(Watch("other", "ann", 2, 8.9, 15.0, ended=9.2, status="LEFT", loop="other"))


def break_never_silent(history: History) -> None:
    del quick(history)[2]


def break_never_silent_at_first(history: History) -> None:
    history.watches[0].joined = -10.0


def break_heartbeats_are_true_by_count(history: History) -> None:
    quick(history)[2] = beat(8.0, 2, "UPSTREAM_UNAVAILABLE")


def break_heartbeats_are_true_by_reason(history: History) -> None:
    quick(history)[2] = beat(8.0, 1, "UPSTREAM_TIMEOUT")


def break_tokens_by_a_missing_one(history: History) -> None:
    quick(history)[2] = beat(8.0, 1, "UPSTREAM_UNAVAILABLE", token="")


def break_tokens_by_a_long_one(history: History) -> None:
    quick(history)[0] = event(1.1, "a", token="t" * 513)


def break_the_end_again(history: History) -> None:
    history.watches[0].resumed_done = True
    history.watches[0].events = [beat(1.0)]


EXPECTED: dict[Callable[[History], None], str] = {
    break_state_at_once_with_an_old_state: "state_at_once",
    break_state_at_once_with_a_state_that_was_seen: "state_at_once",
    break_every_change_by_losing_one: "every_change_in_order",
    break_every_change_by_repeating_one: "every_change_in_order",
    break_every_change_by_their_order: "every_change_in_order",
    break_every_change_by_a_wrong_count: "every_change_in_order",
    break_one_end_with_two: "one_end",
    break_one_end_with_none: "one_end",
    break_one_end_with_an_error: "one_end",
    break_one_end_with_half_a_result: "one_end",
    break_slow_watchers_with_a_queue: "slow_watchers",
    break_slow_watchers_with_an_old_state: "slow_watchers",
    break_one_loop_with_overlapping_polls: "one_loop",
    break_one_loop_with_two: "one_loop",
    break_one_loop_by_haste: "one_loop",
    break_own_credential: "own_credential",
    break_polled_while_watched_afterwards: "polled_while_watched",
    break_polled_while_watched_with_a_poll_that_goes_on: "polled_while_watched",
    break_reads_are_finished: "reads_are_finished",
    break_failures_reach_all: "failures_reach_all",
    break_errors_are_true_with_an_error_of_nobody: "errors_are_true",
    break_errors_are_true_with_one_refusal: "errors_are_true",
    break_errors_are_true_with_two_that_differ: "errors_are_true",
    break_errors_are_true_with_a_job_that_was_just_sent: "errors_are_true",
    break_errors_are_true_without_another_look: "errors_are_true",
    break_errors_are_true_with_a_passing_failure: "errors_are_true",
    break_outages_reach_all: "outages_reach_all",
    break_changes_at_once: "changes_at_once",
    break_backs_off: "backs_off",
    break_retry_after: "retry_after",
    break_retry_after_of_another_loop: "retry_after",
    break_never_silent: "never_silent",
    break_never_silent_at_first: "never_silent",
    break_heartbeats_are_true_by_count: "heartbeats_are_true",
    break_heartbeats_are_true_by_reason: "heartbeats_are_true",
    break_tokens_by_a_missing_one: "tokens_from_the_first_state_on",
    break_tokens_by_a_long_one: "tokens_from_the_first_state_on",
    break_the_end_again: "the_end_again",
}


@pytest.mark.parametrize("break_it", EXPECTED, ids=lambda break_it: break_it.__name__)
def test_a_broken_promise_is_found(break_it: Callable[[History], None]) -> None:
    history = good()
    break_it(history)
    assert EXPECTED[break_it] in violations(history)


@pytest.mark.parametrize(
    ("history", "promise"),
    [(outage(40), "errors_are_true"), (outage(70), "outages_end")],
    ids=["gives up early", "gives up late"],
)
def test_a_broken_limit_is_found(history: History, promise: str) -> None:
    assert promise in violations(history)


def throttled(polls_during: int) -> History:
    """Return a history over sockets, with polls of another job during a 429."""
    history = good()
    history.stepped = False
    history.polls[3] = replace(history.polls[3], throttled=True)
    history.polls += [poll(7.2 + 1.1 * n, "b", uid=2, loop="other") for n in range(polls_during)]
    history.watches.append(Watch("other", "ann", 2, 7.1, 15.0, ended=9.4, status="LEFT", loop="other"))
    history.watches[-1].events = [event(7.3, "b")] if polls_during else []
    return history


def test_one_poll_per_job_may_be_in_flight_at_a_429() -> None:
    assert violations(throttled(1)) == {}


def test_a_second_poll_during_a_429_is_found() -> None:
    assert "retry_after" in violations(throttled(2))


def test_a_poll_of_the_throttled_job_itself_is_found() -> None:
    history = throttled(0)
    history.polls.append(poll(8.0, "b"))
    assert "retry_after" in violations(history)


def test_an_outage_is_judged_by_when_its_first_poll_was_sent() -> None:
    early = outage(60)
    early.stepped = False
    early.watches[0].ended -= 1.8
    assert violations(early) == {}, "the upstream may have read the first poll 1.8 s after it was sent"
    early.watches[0].ended -= 0.2
    assert "errors_are_true" in violations(early)


def test_every_promise_has_a_history_that_breaks_it() -> None:
    assert {*EXPECTED.values(), "outages_end"} == {promise.__name__ for promise in PROMISES}
    assert all(promise.__doc__ for promise in PROMISES)
