"""The promises of a watch, as the comments of `WatchJob` in the proto number them: one function per promise.

Each function yields the violations in a history.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING

from tests.invariants.history import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.invariants.history import Event, History, Poll, Watch

# The tolerance for events that are too early. Only late events have the tolerance of the history.
EXACT = 0.001

MANY_INTERVALS = 20

# Refusals of a job that was sent in the last `JUST_SENT` seconds are transient for `GRACE` seconds.
JUST_SENT, GRACE = 60.0, 15.0
# Parts of the limit of an outage: the longest poll, and the latest end if other jobs get a 429.
LONGEST_POLL, LONGEST_HOLD = 1 / 3, 2

FAILED = frozenset({Kind.PASSING, Kind.REFUSED})

# The ends of watches without a failure of the upstream.
OWN_ENDS = frozenset({"OK", "LEFT", "DRAINING", "KILLED"})


class Polls:
    """The polls of a history by credential, job and process, ordered by their ends."""

    def __init__(self, history: History) -> None:
        self._by_key: dict[tuple[str, int, int], list[Poll]] = defaultdict(list)
        for poll in history.polls:
            self._by_key[poll.credential, poll.uid, poll.process].append(poll)
        for polls in self._by_key.values():
            polls.sort(key=attrgetter("ended"))

    def __iter__(self) -> Iterator[list[Poll]]:
        return iter(self._by_key.values())

    def loops_by_name(self) -> Iterator[list[Poll]]:
        """Yield the polls of each loop."""
        for polls in self:
            names = dict.fromkeys(poll.loop for poll in polls)
            for name in names:
                yield [poll for poll in polls if poll.loop == name]

    def of(self, watch: Watch) -> list[Poll]:
        """Return all polls of the watch's job under its credential."""
        return self._by_key[watch.credential, watch.uid, watch.process]

    def loops(self, watch: Watch) -> list[list[Poll]]:
        """Return the polls of the watch's loop, or of each possible loop if that is not recorded."""
        by_loop: dict[str, list[Poll]] = defaultdict(list)
        for poll in self.of(watch):
            by_loop[poll.loop].append(poll)
        if watch.loop:
            return [by_loop[watch.loop]]
        return [
            polls for polls in by_loop.values() if polls[0].began <= watch.ended and watch.joined <= polls[-1].ended
        ]


def in_its_loop(watch: Watch, polls: Polls, problem: Callable[[list[Poll]], str | None]) -> Iterator[str]:
    """Yield the problem of a watch, unless one of its possible loops explains its events."""
    problems = [problem(loop) for loop in polls.loops(watch)]
    if problems and all(problems):
        yield f"{watch.name}: {problems[-1]}"


def changes(polls: list[Poll]) -> list[Poll]:
    """Return the polls that read a changed state."""
    found: list[Poll] = []
    for poll in polls:
        if poll.kind is Kind.STATE and (not found or (poll.state, poll.done) != (found[-1].state, found[-1].done)):
            found.append(poll)
    return found


def states(watch: Watch) -> list[Event]:
    return [event for event in watch.events if event.state is not None]


def state_at_once(history: History, polls: Polls) -> Iterator[str]:
    """1. The first state is the current one, or the next change if the resume token has the current one."""
    for watch in history.watches:
        for event in states(watch)[:1]:
            yield from in_its_loop(watch, polls, partial(_wrong_first_state, watch, event, history))


def _wrong_first_state(watch: Watch, event: Event, history: History, loop: list[Poll]) -> str | None:
    if not _is_latest(loop, event, history):
        return f"its first state {event.state!r} at {event.time:.3f} is not the job's state then"
    between = [poll for poll in changes(loop) if watch.joined <= poll.ended <= event.time]
    news = any(poll.state != event.state for poll in between)
    if watch.resumed_from == event.state and not event.done and not news:
        return f"it was given {event.state!r} again, which its token had seen"
    return None


def _is_latest(loop: list[Poll], event: Event, history: History) -> bool:
    read = changes(loop)
    for number, poll in enumerate(read):
        until = read[number + 1].ended if number + 1 < len(read) else float("inf")
        current = poll.ended <= event.time + history.tolerance and event.time - history.tolerance <= until
        if current and _matches(poll, event):
            return True
    return False


def _matches(poll: Poll, event: Event) -> bool:
    return (poll.state, poll.done) == (event.state, event.done)


def every_change_in_order(history: History, polls: Polls) -> Iterator[str]:
    """2. Every change after the first state is delivered once, in the order of the polls, or counted as skipped."""
    for watch in history.watches:
        if states(watch):
            yield from in_its_loop(watch, polls, partial(_wrong_order, states(watch)))


def _wrong_order(got: list[Event], loop: list[Poll]) -> str | None:
    read = changes(loop)
    # The first state may occur several times. The skipped counts lead from there.
    if any(_matches(poll, got[0]) and _follows(read, place, got) for place, poll in enumerate(read)):
        return None
    return f"{[(event.state, event.skipped) for event in got]} is not the order of the polls"


def _follows(read: list[Poll], place: int, got: list[Event]) -> bool:
    for event in got[1:]:
        place += 1 + event.skipped
        if place >= len(read) or not _matches(read[place], event):
            return False
    return True


def one_end(history: History, polls: Polls) -> Iterator[str]:
    """3. Exactly one event has `done`: the last one, with the full result. Then the status is OK, and only then."""
    del polls
    for watch in history.watches:
        ends = [number for number, event in enumerate(watch.events) if event.done]
        if len(ends) > 1 or (ends and ends[0] != len(watch.events) - 1):
            yield f"{watch.name}: an event came after the end"
        if watch.status == "OK" and not ends:
            yield f"{watch.name}: it ended with OK and without an end"
        if ends and watch.status not in ("OK", "LEFT", "KILLED"):
            yield f"{watch.name}: it ended with {watch.status} after the end"
        if ends and watch.events[ends[0]].held != history.results[watch.uid]:
            yield f"{watch.name}: its result is not the job's"


def slow_watchers(history: History, polls: Polls) -> Iterator[str]:
    """4. A watcher that did not read gets the one event that was in flight, and then the latest state."""
    for watch in history.watches:
        for began, ended in watch.asleep:
            waiting = [event for event in watch.events if began < event.time < ended]
            if len(waiting) > 1:
                yield f"{watch.name}: {len(waiting)} events waited for it while it did not read, and not one"
            for event in [event for event in states(watch) if event.time >= ended][:1]:
                yield from in_its_loop(watch, polls, partial(_not_the_latest, event, history))


def _not_the_latest(event: Event, history: History, loop: list[Poll]) -> str | None:
    return None if _is_latest(loop, event, history) else f"after its pause it got {event.state!r}, not the latest"


def one_loop(history: History, polls: Polls) -> Iterator[str]:
    """5. There is one loop per job and credential. Its polls do not overlap, and keep the shortest interval."""
    for own in polls:
        ended: set[str] = set()
        for before, after in pairwise(sorted(own, key=lambda poll: poll.began)):
            name = f"{after.credential}/{after.uid}"
            if after.began < before.ended - (history.tolerance if before.kind is Kind.CUT else EXACT):
                yield f"{name}: two polls at the same time at {after.began:.3f}"
            if before.loop != after.loop:
                ended.add(before.loop)
            if after.loop in ended and not history.loops_share_names:
                yield f"{name}: two loops at the same time at {after.began:.3f}"
            gap = after.began - before.ended
            same = before.loop == after.loop and before.kind is Kind.STATE
            if same and gap < history.shortest - EXACT:
                yield f"{name}: polled again after {gap:.3f} s at {after.began:.3f}"


def own_credential(history: History, polls: Polls) -> Iterator[str]:
    """5. A state that was read with one credential is never shown to another."""
    for watch in history.watches:
        mine = {poll.state for poll in polls.of(watch)}
        for event in states(watch):
            if event.state not in mine:
                yield f"{watch.name}: {event.state!r} was never read under its credential"


def polled_while_watched(history: History, polls: Polls) -> Iterator[str]:
    """6. The polling stops when the last watcher leaves."""
    for poll in history.polls:
        tolerance = history.tolerance
        watches = _watches_of(history, poll)
        if not any(watch.joined - tolerance <= poll.began <= watch.ended + tolerance for watch in watches):
            yield f"{poll.credential}/{poll.uid}: polled at {poll.began:.3f} with nobody watching"
        left = max((watch.ended for watch in watches if watch.joined <= poll.ended), default=poll.ended)
        if poll.kind is Kind.CUT and poll.ended > left + history.outage * LONGEST_POLL + tolerance:
            yield f"{poll.credential}/{poll.uid}: its poll went on for too long after the last watcher had left"


def reads_are_finished(history: History, polls: Polls) -> Iterator[str]:
    """6. A read in flight is finished when the last watcher leaves."""
    del polls
    for poll in history.polls:
        closed = history.closed.get(poll.process, float("inf"))
        if poll.kind is not Kind.CUT or not history.stepped or poll.ended >= closed:
            continue
        watches = [watch for watch in _watches_of(history, poll) if watch.joined <= poll.ended]
        left = [watch for watch in watches if abs(watch.ended - poll.ended) <= EXACT and watch.status == "LEFT"]
        if left and all(watch.ended <= poll.ended + EXACT for watch in watches):
            yield f"{poll.credential}/{poll.uid}: its poll was given up at {poll.ended:.3f} with its last watcher"


def failures_reach_all(history: History, polls: Polls) -> Iterator[str]:
    """7. A loop that fails ends all its watchers with its status, immediately if a refusal counts (8)."""
    for loop in polls.loops_by_name():
        for poll in refusals_that_count(loop, history, surely=True):
            for watch in _watches_of(history, poll):
                begun = poll.ended if watch.loop and watch.loop == poll.loop else poll.began
                inside = _joined(watch, history) < begun and poll.ended < watch.ended - history.tolerance
                asleep = any(
                    began <= poll.ended + history.tolerance and poll.ended < ended for began, ended in watch.asleep
                )
                if inside and not asleep:
                    yield f"{watch.name}: it did not end with the refusal at {poll.ended:.3f}"


def refusals_that_count(loop: list[Poll], history: History, *, surely: bool) -> Iterator[Poll]:
    """Yield the refusals that may end a loop, or only those that must (`surely`).

    Over sockets, the loop of a watcher is not recorded, so it may be unclear whether the job was known to exist.
    """
    state_read, before, grace = False, "", None
    for poll in loop:
        if poll.kind is Kind.STATE:
            state_read, before, grace = True, "", None
        if poll.kind is not Kind.REFUSED:
            continue
        sent = history.sent.get(poll.uid)
        if grace is None:
            just_sent = sent is not None and poll.ended - sent <= JUST_SENT
            grace = poll.ended + GRACE if just_sent else poll.ended
        resumed = [watch for watch in _watches_of(history, poll) if watch.resumed_from is not None]
        in_loop = [watch for watch in resumed if watch.loop == poll.loop and watch.joined <= poll.ended]
        told = bool(in_loop if history.stepped else surely and resumed)
        confirmed, before = before == poll.failure, poll.failure
        # An earlier loop may have read a state, which the gateway remembers for a while.
        earlier = surely and any(
            each.kind is Kind.STATE
            and (each.credential, each.uid) == (poll.credential, poll.uid)
            and each.ended <= poll.ended
            for each in history.polls
        )
        if poll.ended >= grace and (confirmed or not (state_read or told or earlier or sent is not None)):
            yield poll


def _joined(watch: Watch, history: History) -> float:
    """Return the time at which the watch had certainly joined its loop, in seconds of the history."""
    # Over sockets, a call may reach the gateway long after it was made.
    return watch.joined if history.stepped else min((event.time for event in watch.events), default=float("inf"))


def outages_reach_all(history: History, polls: Polls) -> Iterator[str]:
    """7. A loop that gives up ends all its watchers."""
    del polls
    for watch in history.watches:
        if watch.status != "UPSTREAM_OUTAGE" or not watch.loop:
            continue
        for other in history.watches:
            asleep = any(ended >= watch.ended for _, ended in other.asleep)
            inside = other.joined < watch.ended and other.ended > watch.ended + history.tolerance
            if other.loop == watch.loop and inside and not asleep and not watch.asleep:
                yield f"{other.name}: its loop gave up at {watch.ended:.3f}, and it was not told"


def changes_at_once(history: History, polls: Polls) -> Iterator[str]:
    """2. A watcher that reads gets a change when it was polled, not later."""
    for watch in history.watches:
        if watch.loop and not watch.asleep:
            yield from in_its_loop(watch, polls, partial(_late_change, watch, history))


def _late_change(watch: Watch, history: History, loop: list[Poll]) -> str | None:
    told = [event.time for event in states(watch)]
    for number, poll in enumerate(changes(loop)):
        inside = watch.joined < poll.ended < watch.ended - history.tolerance
        # The state of the resume token is not repeated as the first one.
        known = poll.state == watch.resumed_from and (not told or poll.ended < told[0] or number == 0)
        if inside and not known and not any(abs(time - poll.ended) <= history.tolerance for time in told):
            return f"it was not told of {poll.state!r} when that was read at {poll.ended:.3f}"
    return None


def backs_off(history: History, polls: Polls) -> Iterator[str]:
    """8. Failures in a row slow the polling down."""
    for own in polls:
        run: list[Poll] = []
        for poll in own:
            run = [*run, poll] if poll.kind in FAILED and (not run or run[0].loop == poll.loop) else []
            lasted = poll.ended - run[0].began if run else 0.0
            if lasted > MANY_INTERVALS * history.shortest and len(run) > lasted / history.shortest:
                yield f"{poll.loop}: {len(run)} failures in {lasted:.1f} s"


def errors_are_true(history: History, polls: Polls) -> Iterator[str]:
    """8. An error belongs to a refusal that counts. Transient failures end no watch before the limit."""
    for watch in history.watches:
        if watch.status == "UPSTREAM_OUTAGE":
            yield from in_its_loop(watch, polls, partial(_wrong_outage, watch, history))
        elif watch.status and watch.status not in OWN_ENDS:
            yield from in_its_loop(watch, polls, partial(_wrong_error, watch, history))


def _wrong_error(watch: Watch, history: History, loop: list[Poll]) -> str | None:
    if any(poll.failure == watch.status for poll in refusals_that_count(loop, history, surely=False)):
        return None
    return f"it ended with {watch.status}, and no poll had that which counts"


def _wrong_outage(watch: Watch, history: History, loop: list[Poll]) -> str | None:
    if any(began <= watch.ended <= ended + history.tolerance for began, ended in watch.asleep):
        # Its loop ended earlier than the watch. The watchers that were awake are checked instead.
        return None
    before = [poll for poll in loop if poll.began <= watch.ended]
    run = _failing_run(before)
    if not run or watch.ended - _sent(run[0], before, history) < history.outage - EXACT:
        return f"it gave up at {watch.ended:.3f} before the limit"
    looked = run[-1].began >= run[0].began + history.outage - _inexact(history)
    if run[-1].retry_after and not looked:
        return f"it gave up at {watch.ended:.3f}, and did not look again after Retry-After"
    failed = [poll for poll in run if poll.kind in FAILED]
    cut = run[-1].kind is Kind.CUT
    if failed and watch.last_failure != failed[-1].failure and not (cut and watch.last_failure == "UPSTREAM_TIMEOUT"):
        return f"it names {watch.last_failure!r} as the last failure, not {failed[-1].failure!r}"
    return None


def _inexact(history: History) -> float:
    return EXACT if history.stepped else history.tolerance


def _sent(poll: Poll, loop: list[Poll], history: History) -> float:
    """Return the earliest time at which the gateway can have sent this poll, in seconds of the history."""
    if history.stepped:
        return poll.began
    # Over sockets, the upstream reads a request some time after it was sent.
    answered = [before.ended for before in loop if before.ended <= poll.began and before is not poll]
    return max(answered, default=poll.began - history.tolerance)


def _failing_run(polls: list[Poll]) -> list[Poll]:
    run: list[Poll] = []
    for poll in polls:
        run = [] if poll.kind is Kind.STATE else [*run, poll]
    return run


def outages_end(history: History, polls: Polls) -> Iterator[str]:
    """8. An outage ends at its limit, or after one more poll if the upstream asked for a longer wait."""
    for loop in polls.loops_by_name():
        for run in _failing_runs(loop, history):
            limit = run[0].began + history.outage + history.tolerance
            if run[-1].ended <= limit:
                continue
            limit += _waited(run, history)
            late = [poll for poll in run if poll.ended > limit]
            own = [poll for poll in history.polls if poll.credential == run[0].credential]
            asked = any(poll.retry_after or poll.throttled for poll in own)
            last = run[0].began + history.outage * (LONGEST_HOLD + LONGEST_POLL) + history.tolerance
            if late and (not asked or len(late) > 1 or late[0].ended > last):
                yield f"{run[0].loop}: its loop rode out failures from {run[0].began:.3f} to {late[-1].ended:.3f}"


def _waited(run: list[Poll], history: History) -> float:
    """Return the seconds for which these polls of one loop may have waited for the rate of their credential."""
    span = (run[0].began, run[-1].ended)
    others = [poll.began for poll in history.polls if poll.credential == run[0].credential and poll.loop != run[0].loop]
    return sum(
        ended - began
        for began, ended in history.waits.get(run[0].credential, [])
        if span[0] <= ended <= span[1] and not any(abs(other - ended) <= EXACT for other in others)
    )


def _failing_runs(loop: list[Poll], history: History) -> Iterator[list[Poll]]:
    run: list[Poll] = []
    for poll in loop:
        if run and _unwatched(run[-1].ended, poll.began, poll, history):
            # An unwatched outage does not count for later watchers.
            yield run
            run = []
        if poll.kind in FAILED:
            run.append(poll)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _unwatched(began: float, ended: float, poll: Poll, history: History) -> bool:
    watches = _watches_of(history, poll)
    moments = [began, *(watch.ended for watch in watches if began < watch.ended < ended)]
    return any(not any(watch.joined <= moment < watch.ended for watch in watches) for moment in moments)


def retry_after(history: History, polls: Polls) -> Iterator[str]:
    """8. Retry-After is followed up to the limit of an outage, and a 429 delays all loops of its credential."""
    # The start of the failures that a poll belongs to or follows.
    since: dict[Poll, float] = {}
    for loop in polls.loops_by_name():
        run: list[Poll] = []
        for poll in loop:
            run = [*run, poll] if not run or run[-1].kind is not Kind.STATE else [poll]
            since[poll] = run[0].began
    for own in polls:
        for before, after in pairwise(sorted(own, key=attrgetter("began"))):
            early = after.began < before.ended + before.retry_after - EXACT
            last_look = after.began >= since[before] + history.outage - _inexact(history)
            if before.loop == after.loop and before.retry_after and early and not last_look:
                yield f"{after.credential}/{after.uid}: polled at {after.began:.3f}, before Retry-After was over"
    for throttled in [poll for poll in history.polls if poll.throttled]:
        if throttled.ended >= since[throttled] + history.outage - _inexact(history):
            # The one more poll of a loop delays no other loop.
            continue
        until = throttled.ended + min(throttled.retry_after, history.outage) - EXACT
        for own in polls:
            patient = history.outage * LONGEST_HOLD - _inexact(history)
            held = [poll for poll in own if _is_held(poll, throttled, until)]
            during = [poll for poll in held if poll.began < since[poll] + patient]
            # Over sockets, each other job may have one request on its way when the 429 is answered.
            late = during if history.stepped or _same_job(during[:1], throttled) else during[1:]
            for poll in late:
                yield f"{poll.credential}/{poll.uid}: polled at {poll.began:.3f} during a 429 until {until:.3f}"


def _is_held(poll: Poll, throttled: Poll, until: float) -> bool:
    same = (poll.credential, poll.process) == (throttled.credential, throttled.process)
    return same and throttled.ended + EXACT < poll.began < until


def _same_job(polls: list[Poll], throttled: Poll) -> bool:
    return any(poll.uid == throttled.uid for poll in polls)


def never_silent(history: History, polls: Polls) -> Iterator[str]:
    """9. There is an event in each heartbeat interval, from the call to the end."""
    del polls
    for watch in history.watches:
        end = [] if watch.status in ("KILLED", "") else [watch.ended]
        times = [watch.joined, *(event.time for event in watch.events), *end]
        for before, after in pairwise(times):
            asleep = any(began <= after and before <= ended for began, ended in watch.asleep)
            if after - before > watch.heartbeat + history.tolerance and not asleep:
                yield f"{watch.name}: it was silent from {before:.3f} to {after:.3f}"


def heartbeats_are_true(history: History, polls: Polls) -> Iterator[str]:
    """9. A heartbeat has the number of failed polls in a row, and the reason of the last one."""
    for watch in history.watches:
        for event in watch.events:
            if event.heartbeat:
                yield from in_its_loop(watch, polls, partial(_wrong_heartbeat, event, history))


def _wrong_heartbeat(event: Event, history: History, loop: list[Poll]) -> str | None:
    moments = [event.time - history.tolerance, event.time, *_ends_near(loop, event.time, history)]
    possible = {_failing_at(loop, moment) for moment in moments}
    told = (event.failures, event.last_failure)
    return None if told in possible else f"a heartbeat at {event.time:.3f} tells {told}, and it was one of {possible}"


def _failing_at(polls: list[Poll], moment: float) -> tuple[int, str]:
    run = _failing_run([poll for poll in polls if poll.ended <= moment and poll.kind is not Kind.CUT])
    return (len(run), run[-1].failure if run else "")


def _ends_near(polls: list[Poll], moment: float, history: History) -> list[float]:
    return [poll.ended for poll in polls if abs(poll.ended - moment) <= history.tolerance]


def tokens_from_the_first_state_on(history: History, polls: Polls) -> Iterator[str]:
    """11. Every event from the first state on has a short resume token."""
    del polls
    for watch in history.watches:
        begun = False
        for event in watch.events:
            begun = begun or not event.heartbeat
            if begun and not event.token:
                yield f"{watch.name}: an event at {event.time:.3f} has no token"
            if len(event.token) > 512:
                yield f"{watch.name}: a token has {len(event.token)} characters"


def the_end_again(history: History, polls: Polls) -> Iterator[str]:
    """11. A watch that resumes after the last state gets it again."""
    del polls
    for watch in history.watches:
        if watch.resumed_done and watch.status == "OK" and not watch.events[-1].done:
            yield f"{watch.name}: it was not given the end again"


def _watches_of(history: History, poll: Poll) -> list[Watch]:
    key = (poll.credential, poll.uid, poll.process)
    return [watch for watch in history.watches if (watch.credential, watch.uid, watch.process) == key]


PROMISES: tuple[Callable[[History, Polls], Iterator[str]], ...] = (
    state_at_once,
    every_change_in_order,
    one_end,
    slow_watchers,
    one_loop,
    own_credential,
    polled_while_watched,
    reads_are_finished,
    failures_reach_all,
    outages_reach_all,
    changes_at_once,
    backs_off,
    errors_are_true,
    outages_end,
    retry_after,
    never_silent,
    heartbeats_are_true,
    tokens_from_the_first_state_on,
    the_end_again,
)


def violations(history: History) -> dict[str, str]:
    """Return the first violation of each broken promise."""
    polls = Polls(history)
    found: dict[str, str] = {}
    for promise in PROMISES:
        first = next(iter(promise(history, polls)), None)
        if first is not None:
            found[promise.__name__] = first
    return found
