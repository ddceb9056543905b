"""A run over real sockets: a gateway, an upstream that fails, and watchers, with short intervals."""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from gateway.config import Settings
from gateway.server.gateway import Gateway
from tests.invariants.courses import REFUSALS, Course, Troubles, draw_course
from tests.invariants.history import History, Kind, Poll, Watch, read_event
from tests.support.gateways import Failure
from tests.support.tasks import has_ended
from tests.support.upstream import Connection, ReceivedRequest, ScriptedUpstream, answer

if TYPE_CHECKING:
    from tests.invariants.courses import Trouble

CREDENTIALS = ["credential-of-ann", "credential-of-bob"]
SHORTEST, LONGEST, OUTAGE, SILENCE = 0.05, 0.3, 3.0, 0.5
# The delays of a machine without stalls. Checks of the order alone are exact nevertheless.
TOLERANCE = 2.0
# The time between two measurements of the delay of the machine, in seconds.
LOOK_SECONDS = 0.02

# The reason that the gateway reports for each failure.
REASONS = {
    "429": "UPSTREAM_RATE_LIMITED",
    "503": "UPSTREAM_UNAVAILABLE",
    "502": "UPSTREAM_UNAVAILABLE",
    "504": "UPSTREAM_TIMEOUT",
    "500": "UPSTREAM_ERROR",
    "408": "UPSTREAM_NOT_READY",
    "499": "UPSTREAM_CANCELLED",
    "460": "UPSTREAM_CANCELLED",
    "403 page": "UPSTREAM_MALFORMED",
    "404 page": "UPSTREAM_MALFORMED",
    "reset": "UPSTREAM_CONNECTION_LOST",
    "closed": "UPSTREAM_CONNECTION_LOST",
    "half a body": "UPSTREAM_CONNECTION_LOST",
    "hang": "UPSTREAM_TIMEOUT",
    "swallow": "UPSTREAM_TIMEOUT",
    "malformed": "UPSTREAM_MALFORMED",
    "redirect": "UPSTREAM_MALFORMED",
    "401": "UPSTREAM_UNAUTHENTICATED",
    "403": "UPSTREAM_PERMISSION_DENIED",
    "404": "UPSTREAM_NOT_FOUND",
    "410": "UPSTREAM_REFUSED",
}
PASSING = tuple(name for name in REASONS if name not in REFUSALS)


class TroubledUpstream(ScriptedUpstream):
    """Serves jobs with the failures of the run, and records each poll."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self.dice = dice
        self.process = 0
        self.troubles = Troubles(transient=PASSING)
        self.courses: dict[int, tuple[float, Course]] = {}
        self.polls: list[Poll] = []
        self.faults: Counter[str] = Counter()

    async def respond(self, seen: ReceivedRequest, connection: Connection) -> bool:
        """Answer a GET; return whether the connection stays open."""
        began, process = time.monotonic(), self.process
        credential = seen.headers["authorization"].removeprefix("Bearer ")
        uid = int(seen.path.rstrip("/").rpartition("/")[2])
        trouble = self.troubles.of(began, credential, uid)
        kind, state, done, goes_on = Kind.CUT, "", False, True
        try:
            if trouble is not None:
                self.faults[trouble.name] += 1
                goes_on = await self._meet(trouble, connection)
                kind = Kind.REFUSED if trouble.name in REFUSALS else Kind.PASSING
            else:
                started, course = self.courses[uid]
                state, done = course.at(began - started)
                await connection.send(job_answer(uid, state, course.result if done else None))
                kind = Kind.STATE
        finally:
            failure = REASONS[trouble.name] if trouble and kind is not Kind.CUT else ""
            retry_after = trouble.retry_after if trouble and kind is not Kind.CUT else 0.0
            throttled = bool(retry_after and trouble and trouble.name == "429")
            self.polls.append(
                Poll(
                    credential,
                    uid,
                    began,
                    # The gateway cannot know of a response before its last byte was written.
                    time.monotonic() if kind is Kind.CUT else connection.touched,
                    kind,
                    state,
                    done,
                    failure,
                    retry_after,
                    throttled,
                    process,
                    seen.headers.get("x-request-id", ""),
                )
            )
        return goes_on

    async def _meet(self, trouble: Trouble, connection: Connection) -> bool:
        match trouble.name:
            case "hang" | "swallow":
                if trouble.name == "swallow":
                    await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
                await connection.gone()
            case "reset":
                connection.reset()
            case "closed":
                connection.close()
            case "half a body":
                await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
                connection.close()
            case "malformed":
                await connection.send(answer(200, raw=b"<html>"))
                return True
            case "redirect":
                await connection.send(answer(302, headers={"Location": f"{self.url}/elsewhere/"}))
                return True
            case name:
                body = b'{"detail": "so it is"}' if name in REFUSALS else b"<html>" * 100
                headers = self._retry_after(trouble.retry_after)
                await connection.send(answer(int(name[:3]), raw=body, headers=headers))
                return True
        return False

    def _retry_after(self, seconds: float) -> dict[str, str]:
        if not seconds:
            return {}
        if self.dice.random() < 0.5:
            # Not rounded down: the history holds the same number.
            return {"Retry-After": f"{seconds:.6f}"}
        # A date has whole seconds. One more second keeps the promise, because a later poll is allowed.
        return {"Retry-After": email.utils.formatdate(time.time() + seconds + 1, usegmt=True)}


def job_answer(uid: int, state: str, result: bytes | None) -> bytes:
    if result is None:
        return answer(200, {"uid": uid, "status": "running", "message": {"message": state}})
    return answer(200, raw=b'{"uid":%d,"status":%b,"result":%b}' % (uid, json.dumps(state).encode(), result))


class Stalls:
    """Measures delays of the event loop by the machine. `longest` is in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0

    def start(self) -> None:
        self._task = asyncio.create_task(self._measure())

    def stop(self) -> None:
        self._task.cancel()

    async def _measure(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(LOOK_SECONDS)
            self.longest = max(self.longest, time.monotonic() - began - LOOK_SECONDS)


class SocketRun:
    """One run from a seed. `history` has its records."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.upstream = TroubledUpstream(self.dice)
        self.watches: list[Watch] = []
        self.steps = 0
        self.faults = self.upstream.faults
        self._active: dict[int, tuple[Watch, asyncio.Task[None]]] = {}
        self._results: dict[int, bytes] = {}
        self._stalls = Stalls()

    @property
    def history(self) -> History:
        tolerance = TOLERANCE + 3 * self._stalls.longest
        return History(
            self.upstream.polls, self.watches, self._results, SHORTEST, LONGEST, OUTAGE, tolerance, stepped=False
        )

    async def start(self) -> None:
        self._stalls.start()
        await self.upstream.start()
        await self._start_gateway()

    async def _start_gateway(self) -> None:
        self.upstream.process += 1
        self._gateway = Gateway(
            Settings(
                upstream_url=self.upstream.url,
                listen="127.0.0.1:0",
                admin_listen="127.0.0.1:0",
                poll_interval_min_seconds=SHORTEST,
                poll_interval_max_seconds=LONGEST,
                poll_outage_seconds=OUTAGE,
                upstream_timeout_seconds=SILENCE,
            )
        )
        await self._gateway.start()
        self._channel = grpc.aio.insecure_channel(self._gateway.address)

    async def _stop_gateway(self, grace: float) -> None:
        await self._gateway.stop(grace)
        # A watch that is cancelled before its first step does not run at all.
        for outcome in await asyncio.gather(*(task for _, task in self._active.values()), return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), outcome
        await self._channel.close()

    def _join(self, resume: Watch | None = None) -> None:
        dice = self.dice
        number = len(self.watches)
        credential = dice.choice(CREDENTIALS)
        uid = resume.uid if resume else self._draw_uid()
        watch = Watch(
            f"watch {number}",
            credential,
            uid,
            time.monotonic(),
            heartbeat=dice.choice([1.0, 3.0]),
            process=self.upstream.process,
        )
        token, held = "", b""
        if resume is not None:
            seen = [event for event in resume.events if event.token]
            token, held = seen[-1].token, seen[-1].held
            given = [event.state for event in resume.events if event.state is not None]
            watch.resumed_from = given[-1] if given else resume.resumed_from
            watch.resumed_done = seen[-1].done
        self.watches.append(watch)
        self._open(number, watch, token, held)

    def _open(self, number: int, watch: Watch, token: str, held: bytes) -> None:
        """Start a watch, from the token and with the part of the result that its client has."""
        self._active[number] = (watch, asyncio.create_task(self._follow(watch, token, held)))

    def _leave(self) -> None:
        if self._active:
            self.dice.choice(list(self._active.values()))[1].cancel()

    async def _all_ended(self) -> None:
        await asyncio.wait_for(asyncio.gather(*(task for _, task in self._active.values())), 60)

    def _draw_uid(self) -> int:
        courses = self.upstream.courses
        if not courses or self.dice.random() < 0.3:
            uid = len(courses) + 1
            course = draw_course(self.dice, uid, self.dice.choice([0.3, 2.0, 8.0]))
            courses[uid] = (time.monotonic(), course)
            self._results[uid] = course.result
        return self.dice.choice(sorted(courses)[-4:])

    async def _follow(self, watch: Watch, token: str, held: bytes) -> None:
        chunks = self.dice.random() < 0.5
        call: Any = rpc.JobServiceStub(self._channel).WatchJob(
            pb.WatchJobRequest(
                uid=watch.uid,
                content_format=pb.CONTENT_FORMAT_JSON_CHUNKS if chunks else pb.CONTENT_FORMAT_JSON,
                heartbeat_interval=Duration(seconds=int(watch.heartbeat)),
                resume_token=token,
            ),
            metadata=(("authorization", f"Bearer {watch.credential}"), ("x-request-id", watch.name)),
        )
        content = bytearray(held)
        try:
            while (event := await call.read()) is not grpc.aio.EOF:
                watch.events.append(read_event(event, content, time.monotonic()))
            watch.status = "OK"
        except grpc.aio.AioRpcError as error:
            failure = Failure(error)
            watch.status, watch.last_failure = failure.reason, failure.metadata.get("last_failure", "")
        except asyncio.CancelledError:
            call.cancel()
            watch.status = "LEFT"
        finally:
            watch.ended = time.monotonic()

    async def step(self) -> None:
        """Let one thing happen, then a random time pass. The run does not wait for an effect."""
        dice = self.dice
        self.steps += 1
        self._active = {number: entry for number, entry in self._active.items() if not has_ended(entry[1])}
        resumable = [watch for watch in self.watches[-20:] if watch.status and any(each.token for each in watch.events)]
        what = dice.choices(
            ["join", "resume", "leave", "trouble", "calm", "restart", "nothing"], [6, 4, 3, 3, 2, 0.2, 5]
        )[0]
        match what:
            case "join":
                for _ in range(dice.choice([1, 1, 5])):
                    self._join()
            case "resume" if resumable:
                self._join(dice.choice(resumable))
            case "leave":
                self._leave()
            case "trouble" if self.upstream.courses:
                uids = sorted(self.upstream.courses)[-4:]
                self.upstream.troubles.draw(dice, time.monotonic(), dice.choice([0.3, 1.0, 5.0]), CREDENTIALS, uids)
            case "calm":
                self.upstream.troubles.plan.clear()
            case "restart":
                await self._stop_gateway(dice.choice([0.0, 0.3]))
                await self._start_gateway()
        await asyncio.sleep(dice.choice([0.0, 0.01, 0.05, 0.2]))

    async def finish(self) -> None:
        """Let everything end."""
        self.upstream.troubles.plan.clear()
        await self._all_ended()
        await self._stop_gateway(0.0)
        await self.upstream.stop()
        self._stalls.stop()
