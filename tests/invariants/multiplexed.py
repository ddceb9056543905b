"""Streams of many jobs: their records, and the promises that `WatchJobs` has in addition to those of a watch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from gateway.rpc.codec.resume_token import read_token
from tests.invariants.checks import FAILED, PROMISES, Polls, changes, states
from tests.invariants.history import Kind, read_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobgateway.v1 import job_service_pb2 as pb

    from tests.invariants.history import History, Poll, Watch

# A stream tells these immediately only if its client reads immediately.
PROMPT = frozenset({"failures_reach_all", "outages_reach_all", "changes_at_once"})
LOST = "LOST"
# One, and another one of a job that joins while those of a job that leaves is counted.
TURNS_OF_A_PASS = 2
# One before its own turn, one that is prepared then, one in its order, and one to spare.
CHUNKS_BEFORE_THE_FIRST = 4


@dataclass(frozen=True)
class Arrival:
    """An event on a stream: the time at which it was written, its payload and its token.

    `in_parts` is true for the end of a result in chunks, also if a token has all of them.
    """

    time: float
    uid: int
    payload: str
    token: str
    requests: int = 0
    in_parts: bool = False


@dataclass
class Stream:
    """One stream from its call to its end.

    Attributes:
        paced: Whether its client takes time for each event, so that events wait for each other.
        watches: The watches in the order of their requests.
        requests: The number of requests for watches, also for those that must be refused.
        expected: The refusals that are due, by uid and reason.
        refused: Those that were received.
        strays: Events of jobs that are not being watched.
    """

    name: str
    credential: str
    joined: float
    heartbeat: float
    paced: bool = False
    watches: list[Watch] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    requests: int = 0
    expected: Counter[tuple[int, str]] = field(default_factory=Counter)
    refused: Counter[tuple[int, str]] = field(default_factory=Counter)
    strays: list[str] = field(default_factory=list)
    asleep: list[tuple[float, float]] = field(default_factory=list)
    half_closed: bool = False
    ended: float = float("inf")
    status: str = ""


class Inbox:
    """The client of a stream: it gives each event to the watch of its job."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.open: dict[int, Watch] = {}
        self._contents: dict[int, bytearray] = {}
        # Jobs that were left: their last event may be on its way.
        self._left: set[int] = set()

    @property
    def used(self) -> set[int]:
        """The jobs that cannot be watched now, or whose events could not be told apart."""
        return self._left | self.open.keys()

    def start(self, watch: Watch, content: bytes) -> None:
        self.open[watch.uid] = watch
        self._contents[watch.uid] = bytearray(content)
        self.stream.watches.append(watch)
        self.stream.requests += 1

    def leave(self, uid: int) -> Watch:
        """End a watch without its end, and return it."""
        watch = self.open.pop(uid)
        watch.status = "LEFT"
        self._left.add(uid)
        return watch

    def receive(self, event: pb.JobEvent, now: float) -> None:
        payload = event.WhichOneof("payload") or ""
        uid = event.uid
        told = event.synced.watch_requests if payload == "synced" else 0
        self.stream.arrivals.append(Arrival(now, uid, payload, event.resume_token, told, event.job.content_omitted))
        if not uid or uid in self._left:
            return
        reason = event.failure.reason if payload == "failure" else ""
        if (uid, reason) in self.stream.expected:
            self.stream.refused[uid, reason] += 1
        elif uid not in self.open:
            self.stream.strays.append(f"a {payload} {reason} of job {uid} at {now:.3f}")
        elif reason:
            watch = self.open.pop(uid)
            watch.status, watch.ended = reason, min(watch.ended, now)
            watch.last_failure = event.failure.metadata["last_failure"] if reason == "UPSTREAM_OUTAGE" else ""
        else:
            watch = self.open[uid]
            watch.events.append(read_event(event, self._contents[uid], now))
            if watch.events[-1].done:
                watch.status, watch.ended = "OK", min(watch.ended, now)
                del self.open[uid]

    def end(self, status: str, now: float) -> None:
        """End the stream, and with it all watches that have had no end."""
        self.stream.status, self.stream.ended = status, now
        for watch in self.open.values():
            watch.status, watch.ended = LOST if status == "OK" else status, min(watch.ended, now)
        self.open.clear()


Streams = list[Stream]


def one_end_each(streams: Streams, history: History, polls: Polls) -> Iterator[str]:
    """1, 2 and 3. Each watch has exactly one end, before the stream ends with OK; only `DRAINING` ends it otherwise."""
    del history, polls
    for stream in streams:
        for watch in stream.watches:
            if watch.status in (LOST, ""):
                yield f"{watch.name}: {stream.name} ended with {stream.status}, and the watch had no end"
        yield from (f"{stream.name}: {stray}" for stray in stream.strays)
        if stream.status not in ("OK", "LEFT", "KILLED", "DRAINING"):
            yield f"{stream.name}: it ended with {stream.status}"


def refusals_are_true(streams: Streams, history: History, polls: Polls) -> Iterator[str]:
    """3. An invalid request is refused, and no other."""
    del history, polls
    for stream in streams:
        missing = stream.expected - stream.refused if stream.status == "OK" else Counter()
        if missing or stream.refused - stream.expected:
            yield f"{stream.name}: {dict(stream.expected)} were due, and {dict(stream.refused)} came"


def never_silent(streams: Streams, history: History, polls: Polls) -> Iterator[str]:
    """4. There is an event of the stream in each heartbeat interval."""
    del polls
    for stream in streams:
        end = [] if stream.status == "KILLED" else [stream.ended]
        for before, after in pairwise([stream.joined, *(each.time for each in stream.arrivals), *end]):
            asleep = stream.paced or any(began <= after and before <= ended for began, ended in stream.asleep)
            if after - before > stream.heartbeat + history.tolerance and not asleep:
                yield f"{stream.name}: it was silent from {before:.3f} to {after:.3f}"


def failing_is_told(streams: Streams, history: History, polls: Polls) -> Iterator[str]:
    """4. A job's heartbeat says immediately when reading it begins and stops to fail."""
    for stream in streams:
        for watch in stream.watches if not stream.paced and history.stepped else []:
            for loop in polls.loops(watch) if watch.loop and not watch.asleep else []:
                yield from _untold(watch, [poll for poll in loop if poll.kind is not Kind.CUT], history)


def _untold(watch: Watch, loop: list[Poll], history: History) -> Iterator[str]:
    for before, poll in pairwise([None, *loop]):
        assert poll is not None
        inside = watch.joined < poll.ended < watch.ended - history.tolerance
        failing, failed = poll.kind in FAILED, before is not None and before.kind in FAILED
        if not inside or failing == failed:
            continue
        near = [event for event in watch.events if abs(event.time - poll.ended) <= history.tolerance]
        told = any(event.heartbeat and (event.failures > 0) == failing for event in near)
        if not told and not (not failing and any(event.state is not None for event in near)):
            yield f"{watch.name}: it was not told that reading {'fails' if failing else 'works'} at {poll.ended:.3f}"


def heartbeats_are_changes(streams: Streams, history: History, polls: Polls) -> Iterator[str]:
    """4. A job has no other heartbeats."""
    del history, polls
    for stream in streams:
        for watch in stream.watches:
            failing = False
            for event in watch.events:
                if event.heartbeat and (event.failures > 0) == failing:
                    yield f"{watch.name}: its heartbeat at {event.time:.3f} says nothing new"
                failing = event.heartbeat and event.failures > 0


def synced_is_true(streams: Streams, history: History, polls: Polls) -> Iterator[str]:
    """5. `synced` comes after the first state of each watch that was requested before, or after its end."""
    for stream in streams:
        told = [each for each in stream.arrivals if each.payload == "synced"]
        if stream.status == "OK" and stream.requests and (not told or told[-1].requests != stream.requests):
            yield f"{stream.name}: it never told of all {stream.requests} requests"
        if any(before.requests >= after.requests for before, after in pairwise(told)):
            yield f"{stream.name}: it was synced twice"
        for watch in stream.watches if history.stepped and not stream.expected else []:
            place = stream.watches.index(watch)
            synced = next((each.time for each in told if each.requests > place), float("inf"))
            began = [event.time for event in states(watch)]
            known = [poll.ended for poll in polls.of(watch) if poll.state == watch.resumed_from]
            if synced + history.tolerance < min([watch.ended, *began, *known]):
                yield f"{watch.name}: it had no state when the stream was synced at {synced:.3f}"


def takes_turns(streams: Streams, history: History, polls: Polls) -> Iterator[str]:
    """6. Before a change, each other job has one event, and one chunk is written."""
    for stream in streams:
        for watch in stream.watches if stream.paced and history.stepped else []:
            for loop in polls.loops(watch):
                for poll in changes(loop):
                    if watch.joined < poll.ended:
                        yield from _overtaken(stream, watch, poll)


def large_states_take_turns(streams: Streams, history: History, polls: Polls) -> Iterator[str]:
    """6. Between two chunks of a result, each other job has one event, and each other result one chunk."""
    for stream in streams:
        chunks = [each for each in stream.arrivals if each.payload == "content_chunk"]
        spans = [(watch, [each.time for each in chunks if _is_of(each, watch)]) for watch in stream.watches]
        spans = [(watch, times) for watch, times in spans if times]
        for watch, times in spans:
            read = [poll.ended for loop in polls.loops(watch) for poll in loop if poll.done]
            since = max(watch.joined, min(read, default=times[0])) if history.stepped else times[0]
            for other, chunks_of_other in spans:
                overtaking = [time for time in chunks_of_other if since < time < times[0]]
                if other is not watch and len(overtaking) > CHUNKS_BEFORE_THE_FIRST:
                    yield f"{watch.name}: its result waited for {len(overtaking)} chunks of {other.name}"
            for before, after in pairwise(times):
                yield from _unfair(stream, watch, before, after, [span for span in spans if span[0] is not watch])


def _is_of(arrival: Arrival, watch: Watch) -> bool:
    return arrival.uid == watch.uid and watch.joined <= arrival.time <= watch.ended


def _unfair(
    stream: Stream, watch: Watch, before: float, after: float, others: list[tuple[Watch, list[float]]]
) -> Iterator[str]:
    for other, times in others:
        halfway = times[0] < before and after < times[-1]
        if halfway and not any(before < time < after for time in times):
            yield f"{watch.name}: it had two chunks in a row from {before:.3f}, and {other.name} waited"
    between = Counter(each.uid for each in stream.arrivals if each.uid and before < each.time < after)
    if max(between.values(), default=0) > TURNS_OF_A_PASS:
        yield f"{watch.name}: its chunk at {after:.3f} waited for {dict(between)} events"


def _overtaken(stream: Stream, watch: Watch, poll: Poll) -> Iterator[str]:
    later = [event.time for event in states(watch) if event.time > poll.ended]
    own = [
        each.time
        for each in stream.arrivals
        if each.uid == watch.uid and (each.in_parts or each.payload == "content_chunk")
    ]
    first = later and later[0] == states(watch)[0].time
    # The state of a token may come back before its turn, and is then no news.
    known = first and watch.resumed_from is not None
    if not later or known or any(poll.ended < time <= later[0] for time in own):
        return
    between = [each for each in stream.arrivals if each.uid and poll.ended < each.time < later[0]]
    chunks = [each for each in between if each.payload == "content_chunk"]
    turns = Counter(each.uid for each in between if each.payload != "content_chunk" and each.uid != watch.uid)
    if len(chunks) > 1 or max(turns.values(), default=0) > 1:
        yield (
            f"{watch.name}: {poll.state!r}, which was read at {poll.ended:.3f}, waited until {later[0]:.3f} for "
            f"{len(chunks)} chunks and {dict(turns)} events"
        )


def tokens_name_their_job(streams: Streams, history: History, polls: Polls) -> Iterator[str]:
    """8. The token of an event is one of its job."""
    del history, polls
    for stream in streams:
        for each in stream.arrivals:
            point = read_token(each.token) if each.token else None
            if point is not None and point.uid != each.uid:
                yield f"{stream.name}: an event of job {each.uid} has a token of job {point.uid}"


MULTIPLEXED: tuple[Callable[[Streams, History, Polls], Iterator[str]], ...] = (
    one_end_each,
    refusals_are_true,
    never_silent,
    failing_is_told,
    heartbeats_are_changes,
    synced_is_true,
    takes_turns,
    large_states_take_turns,
    tokens_name_their_job,
)


def violations(streams: Streams, history: History) -> dict[str, str]:
    """Return the first violation of each broken promise, of the streams and of each of their watches."""
    polls = Polls(history)
    paced = any(stream.paced for stream in streams)
    found: dict[str, str] = {}
    for promise in PROMISES:
        broken = None if paced and promise.__name__ in PROMPT else next(iter(promise(history, polls)), None)
        if broken is not None:
            found[promise.__name__] = broken
    for each in MULTIPLEXED:
        broken = next(iter(each(streams, history, polls)), None)
        if broken is not None:
            found[each.__name__] = broken
    return found
