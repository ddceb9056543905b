"""A run of the hub and streams on a stepped clock, without sockets: hours pass in seconds."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from jobgateway.v1 import job_service_pb2 as pb

from gateway.auth.credential import Credential
from gateway.clock import sleep_until
from gateway.errors import (
    GatewayError,
    UpstreamConnectionLost,
    UpstreamError,
    UpstreamMalformed,
    UpstreamOutage,
    UpstreamStatusError,
    UpstreamTimeout,
)
from gateway.limits.admission import draining_error
from gateway.limits.fair_budget import FairBudget
from gateway.limits.rate_limiter import RateLimiter
from gateway.limits.response_memory import ResponseMemory
from gateway.models import Job, JobStatus, Progress, Result
from gateway.rpc.codec.events import JobState
from gateway.rpc.status import mapping_for
from gateway.rpc.stream import EventStream, StreamResources, read_resume_point
from gateway.telemetry.metrics import Metrics
from gateway.threads import WorkerPool
from gateway.watch import Hub, InMemorySentJobs, PollPolicy, PollSchedule, WatchKey
from tests.invariants.courses import REFUSALS, Course, Troubles, draw_course
from tests.invariants.history import History, Kind, Poll, Watch, read_event
from tests.support.clock import SteppedClock, settle
from tests.support.tasks import has_ended

if TYPE_CHECKING:
    from gateway.clock import PauseTimeout

CREDENTIALS = ["ann", "bob", "eve"]
OUTGOING = ResponseMemory(FairBudget(1 << 30), 1 << 30)
WORKERS = WorkerPool("responses", 1)
SHORTEST, LONGEST, OUTAGE = 0.5, 5.0, 60.0


class Pipe:
    """The client side of a stream. Like flow control, it holds at most one event that is not read."""

    def __init__(self, clock: SteppedClock, watch: Watch, content: bytes) -> None:
        self.credential = Credential(watch.credential)
        self.uid = watch.uid
        self.skipped = 0
        self._clock = clock
        self._watch = watch
        self._content = bytearray(content)
        self._awake = asyncio.Event()
        self._awake.set()

    async def write(self, event: bytes, *, last: bool = False) -> None:
        began = self._clock.stamp()
        await self._awake.wait()
        self._watch.events.append(read_event(pb.JobEvent.FromString(event), self._content, began))

    def sleep(self) -> None:
        if self._awake.is_set():
            self._awake.clear()
            self._watch.asleep.append((self._clock.stamp(), float("inf")))

    def wake(self) -> None:
        if not self._awake.is_set():
            began, _ = self._watch.asleep.pop()
            self._watch.asleep.append((began, self._clock.stamp()))
            self._awake.set()


class TimedRateLimiter(RateLimiter):
    """Records the spans in which a poll waits, by owner."""

    def __init__(self, clock: SteppedClock, per_second: float, waits: dict[str, list[tuple[float, float]]]) -> None:
        super().__init__(clock, per_second)
        self._now = clock
        self._waits = waits

    async def acquire(self, owner: bytes) -> None:
        began = self._now.now
        await super().acquire(owner)
        if self._now.now > began:
            self._waits[owner.decode()].append((began, self._now.now))


class SteppedRun:
    """One run from a seed. `history` has its records, and `faults` the number of failures of each kind."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.clock = SteppedClock()
        self.metrics = Metrics()
        self.polls: list[Poll] = []
        self.watches: list[Watch] = []
        self.faults: Counter[str] = Counter()
        self.steps = 0
        self.sent_jobs = InMemorySentJobs(self.clock)
        self._process = 0
        self._troubles = Troubles()
        self._courses: dict[int, tuple[float, Course]] = {}
        self._results: dict[int, bytes] = {}
        self._sent: dict[int, float] = {}
        self._closed: dict[int, float] = {}
        self._waits: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._loops: WeakKeyDictionary[object, str] = WeakKeyDictionary()
        self._active: dict[int, tuple[Watch, Pipe, asyncio.Task[None]]] = {}
        self._start_process()

    def _start_process(self) -> None:
        self._process += 1
        policy = PollPolicy(
            schedule=PollSchedule(SHORTEST, LONGEST, random.Random(self.dice.random())),
            outage_seconds=OUTAGE,
            rate_limiter=TimedRateLimiter(self.clock, 100.0, self._waits),
            slots=FairBudget(100),
            sent_jobs=self.sent_jobs,
            observer=self.metrics,
        )
        self._hub: Hub[JobState] = Hub(self.clock, policy)

    @property
    def history(self) -> History:
        return History(
            self.polls,
            self.watches,
            self._results,
            SHORTEST,
            LONGEST,
            OUTAGE,
            tolerance=0.001,
            closed=self._closed,
            sent=self._sent,
            waits=self._waits,
        )

    async def _fetch(self, watch: Watch, _: PauseTimeout) -> JobState:
        credential, uid = watch.credential, watch.uid
        began = self.clock.stamp()
        kind, state, done, error = Kind.CUT, "", False, None
        try:
            await self._pass(self.dice.choice([0.0, 0.01, 0.3]))
            trouble = self._troubles.of(began, credential, uid)
            if trouble is not None:
                self.faults[trouble.name] += 1
                if trouble.name == "hang":
                    await self._pass(10.0)
                error = error_of(trouble.name, trouble.retry_after)
                kind = Kind.REFUSED if trouble.name in REFUSALS else Kind.PASSING
                raise error
            started, course = self._courses[uid]
            state, done = course.at(began - started)
            kind = Kind.STATE
            return JobState(job_of(uid, state, course.result if done else None, self.clock.time()))
        finally:
            failure = mapping_for(error).reason if error else ""
            wait = (error.retry_after or 0.0) if error else 0.0
            throttled = bool(error and error.throttled)
            self.polls.append(
                Poll(
                    credential,
                    uid,
                    began,
                    self.clock.stamp(),
                    kind,
                    state,
                    done,
                    failure,
                    wait,
                    throttled,
                    watch.process,
                    watch.name,
                )
            )

    async def _pass(self, seconds: float) -> None:
        await sleep_until(self.clock, self.clock.now + seconds)

    async def _watch(self, watch: Watch, pipe: Pipe, token: str) -> None:
        uid = watch.uid
        content_format = self.dice.choice([pb.CONTENT_FORMAT_JSON, pb.CONTENT_FORMAT_JSON_CHUNKS])
        resources = StreamResources(self.clock, OUTGOING, WORKERS, self.metrics)
        stream = EventStream(pipe, content_format, watch.heartbeat, resources)
        stream.resume(read_resume_point(token, uid), token)
        watch.joined = self.clock.stamp()
        try:
            key = WatchKey(watch.credential.encode(), uid)
            fetch = partial(self._fetch, watch)
            with self._hub.watch(key, fetch, stream.has_seen, exists=stream.has_begun) as watcher:
                # A loop and its polls have the name of its first watch.
                watch.loop = self._loops.setdefault(watcher.loop, watch.name)
                await stream.follow(watcher)
            watch.status = "OK"
        except GatewayError as error:
            watch.status = mapping_for(error).reason
            if isinstance(error, UpstreamOutage):
                watch.last_failure = mapping_for(error.last).reason
        except asyncio.CancelledError:
            watch.status = watch.status or "LEFT"
            raise
        finally:
            watch.ended = self.clock.stamp()

    def _join(self, *, resume: Watch | None = None) -> None:
        dice = self.dice
        credential = dice.choice(CREDENTIALS)
        number = len(self.watches)
        uid = resume.uid if resume else self._draw_uid()
        watch = Watch(
            f"watch {number} of {credential} on {uid}",
            credential,
            uid,
            self.clock.now,
            heartbeat=dice.choice([1.0, 15.0, 40.0]),
            process=self._process,
        )
        token, content = "", b""
        if resume is not None:
            seen = [event for event in resume.events if event.token]
            last = seen[dice.randrange(len(seen))] if dice.random() < 0.3 else seen[-1]
            token, content = last.token, last.held
            until = [event for event in seen[: seen.index(last) + 1] if event.state is not None]
            watch.resumed_from = until[-1].state if until else resume.resumed_from
            watch.resumed_done = last.done
        self.watches.append(watch)
        self._open(number, watch, token, content)

    def _open(self, number: int, watch: Watch, token: str, content: bytes) -> None:
        """Start a watch, from the token and with the part of the result that its client has."""
        pipe = Pipe(self.clock, watch, content)
        self._active[number] = (watch, pipe, asyncio.create_task(self._watch(watch, pipe, token)))

    def _leave(self) -> None:
        if entries := list(self._active.values()):
            self.dice.choice(entries)[2].cancel()

    def _sleep(self) -> None:
        if entries := list(self._active.values()):
            self.dice.choice(entries)[1].sleep()

    def _wake(self) -> None:
        if entries := list(self._active.values()):
            self.dice.choice(entries)[1].wake()

    def _wake_all(self) -> None:
        for _, pipe, _ in self._active.values():
            pipe.wake()

    def _kill(self) -> None:
        for watch, _, task in self._active.values():
            if not task.done():
                watch.status = "KILLED"
                task.cancel()

    def _draw_uid(self) -> int:
        if not self._courses or self.dice.random() < 0.15:
            uid = len(self._courses) + 1
            course = draw_course(self.dice, uid, self.dice.choice([5.0, 100.0, 3_000.0]))
            self._courses[uid] = (self.clock.now, course)
            self._results[uid] = course.result
            if self.dice.random() < 0.5:
                self._send(uid)
        return self.dice.choice(sorted(self._courses)[-6:])

    def _send(self, uid: int) -> None:
        credential = self.dice.choice(CREDENTIALS)
        self.sent_jobs.remember(uid, None)
        self._sent[uid] = self.clock.now
        self._troubles.lag(self.dice, self.clock.now, credential, uid)

    async def step(self) -> None:
        """Let one thing happen, then some time pass."""
        dice = self.dice
        self.steps += 1
        self._active = {number: entry for number, entry in self._active.items() if not has_ended(entry[2])}
        resumable = [
            watch for watch in self.watches[-40:] if watch.status and any(event.token for event in watch.events)
        ]
        action = dice.choices(
            ["join", "resume", "leave", "sleep", "wake", "trouble", "calm", "restart", "nothing"],
            [6, 4, 3, 2, 3, 5, 1, 0.15, 4],
        )[0]
        uids = sorted(self._courses)[-6:]
        match action:
            case "join":
                for _ in range(dice.choice([1, 1, 1, 5])):
                    self._join()
            case "resume" if resumable:
                self._join(resume=dice.choice(resumable))
            case "leave":
                self._leave()
            case "sleep":
                self._sleep()
            case "wake":
                self._wake()
            case "trouble" if uids:
                self._troubles.draw(dice, self.clock.now, dice.choice([2.0, 20.0, 150.0]), CREDENTIALS, uids)
            case "calm":
                self._troubles.plan.clear()
            case "restart":
                await self._restart()
        await self.clock.advance(dice.choice([0.0, 0.0, 0.1, 1.0, 7.0, 40.0]))

    async def _restart(self) -> None:
        if self.dice.random() < 0.5:
            self._wake_all()
            ending = asyncio.create_task(self._hub.end_watchers(draining_error, self.clock.now + 10))
            await self.clock.advance(10)
            await ending
        self._kill()
        await settle()
        self._closed[self._process] = self.clock.stamp()
        await self._hub.aclose()
        self._start_process()

    async def finish(self) -> None:
        """Let all clients read, and everything end."""
        self._troubles.plan.clear()
        self._wake_all()
        await self.clock.advance(2 * 3_600)
        self._check_all_ended()
        assert self._hub.loop_count == 0
        await self._hub.aclose()

    def _check_all_ended(self) -> None:
        for watch, _, task in self._active.values():
            assert has_ended(task), f"{watch.name} never ended"


def job_of(uid: int, state: str, result: bytes | None, now: float) -> Job:
    done = result is not None
    return Job(
        uid,
        JobStatus.SUCCESS if done else JobStatus.RUNNING,
        "success" if done else "running",
        done=done,
        observe_time=now,
        progress=None if done else Progress(state),
        result=None if result is None else Result(memoryview(result), sha256(result).hexdigest()),
    )


def error_of(name: str, retry_after: float) -> UpstreamError:
    match name:
        case "lost":
            return UpstreamConnectionLost("lost")
        case "timed out" | "hang":
            return UpstreamTimeout("slow")
        case "malformed":
            return UpstreamMalformed("no JSON", http_status=200)
        case "403 page" | "404 page":
            return UpstreamStatusError(int(name[:3]), "a page", from_api=False)
        case _:
            return UpstreamStatusError(int(name), "rejected", retry_after=retry_after or None)
