"""Random histories of sends through several gateways with faults, and a checker of them.

    python -m tests.submit.histories --store redis --sends 10000 --seed 1

The checker states: for each id, the upstream saw at most one POST that it did not certainly refuse; every OK has the
uid of that job; every error is true; and once the faults are over, there is an outcome. If Redis loses its data, an id
may be posted once more for each loss.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from jobgateway.v1 import job_service_pb2_grpc as rpc

from tests.submit.fleet import CLAIM_SECONDS, Answer, GatewayProcess, send_over
from tests.support.redis import Door, RedisServer
from tests.support.upstream import Connection, ReceivedRequest, ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

GATEWAYS = 3
WORKERS = 48
# Sends of one id are this close to each other in the plan, so that many are in flight together.
SPREAD = 60
CALL_SECONDS = 20.0
# Ends of calls that say nothing about the job: the gateway died, or the caller's time is over.
NO_ANSWER = frozenset({"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED"})
# Ends of calls that sent nothing.
NOT_SENT = frozenset({"STATE_UNAVAILABLE", "UPSTREAM_UNREACHABLE"})
OUTCOMES = frozenset({"", "SUBMIT_OUTCOME_UNKNOWN", "UPSTREAM_BAD_REQUEST"})
# Attempts to learn the outcome of an id when the faults are over.
LAST_ATTEMPTS = 5


@dataclass
class Post:
    """A POST that the upstream saw: the `uid` of the job that it made, or None for a certain refusal."""

    at: float
    uid: int | None


@dataclass
class History:
    """Everything that happened, by id: the `last` answer is from the time `calm_at`, when the faults were over."""

    posts: dict[str, list[Post]] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    last: dict[str, Answer] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    losses: list[float] = field(default_factory=list)
    calm_at: float = math.inf

    @property
    def forgotten(self) -> int:
        """The number of ids whose job a client got, and whose outcome was unknown in the end."""
        return sum(
            last.reason == "SUBMIT_OUTCOME_UNKNOWN" and any(not each.reason for each in self.answers[request_id])
            for request_id, last in self.last.items()
        )


class RandomUpstream(ScriptedUpstream):
    """An upstream that accepts, refuses, delays and loses POSTs at random, and records each by its id."""

    def __init__(self, history: History, rng: random.Random) -> None:
        super().__init__()
        self._history = history
        self._rng = rng
        self._uids = 0

    async def respond(self, seen: ReceivedRequest, connection: Connection) -> bool:
        if seen.method != "POST":
            uid = int(seen.path.rstrip("/").rpartition("/")[2])
            await connection.send(answer(200, {"uid": uid, "status": "running"}))
            return True
        choice = self._rng.random()
        refused = choice < 0.05
        self._uids += 1
        post = Post(time.monotonic(), None if refused else self._uids)
        self._history.posts.setdefault(seen.json["params"]["id"], []).append(post)
        await asyncio.sleep(self._rng.choice((0.0, 0.005, 0.02, 0.2)))
        if refused:
            await connection.send(answer(400, {"detail": "no"}))
        elif choice < 0.08:
            await connection.send(answer(503, {"detail": "busy"}))
        elif choice < 0.11:
            connection.reset()
            return False
        else:
            await connection.send(answer(201, {"uid": post.uid}))
        return True


def complaints(history: History) -> Iterable[str]:
    """Yield a line for each rule that a history breaks."""
    for request_id, answers in history.answers.items():
        posts = history.posts.get(request_id, [])
        made = [post for post in posts if post.uid is not None]
        if len(made) > 1:
            # A claim from before the loss may still post after it.
            lost = [at for at in history.losses if made[0].at - CLAIM_SECONDS <= at <= made[-1].at]
            if len(made) > 1 + len(lost):
                yield f"{request_id}: {len(made)} jobs, after {len(lost)} losses of data"
        last = history.last[request_id]
        every = [*answers, last]
        uids = {each.uid for each in every if not each.reason}
        if not uids <= {post.uid for post in made}:
            yield f"{request_id}: OK with the uids {uids}, and the jobs are {[post.uid for post in made]}"
        reasons = {each.reason for each in every}
        if not reasons <= NO_ANSWER | NOT_SENT | OUTCOMES:
            yield f"{request_id}: unexpected errors {reasons - NO_ANSWER - NOT_SENT - OUTCOMES}"
        if "UPSTREAM_BAD_REQUEST" in reasons and len(made) == len(posts):
            yield f"{request_id}: refused, and the upstream refused nothing"
        if {each.reason for each in answers} <= NOT_SENT and any(post.at < history.calm_at for post in posts):
            yield f"{request_id}: nothing was sent, and the upstream saw it"
        if last.reason not in OUTCOMES:
            yield f"{request_id}: {last.reason} after the faults"
        fresh = sum(not each.replayed for each in every if not each.reason)
        if fresh > len(made):
            yield f"{request_id}: {fresh} calls say that they sent the job, and {len(made)} did"


def plan(rng: random.Random) -> Iterator[str]:
    """Yield ids to send, without end: each one to four times, close to each other."""
    waiting: list[tuple[float, str]] = []
    planned = 0
    for position in itertools.count():
        while planned <= position:
            times = rng.randint(1, 4)
            for _ in range(times):
                heappush(waiting, (planned + rng.uniform(0, SPREAD), f"id-{planned}"))
            planned += times
        yield heappop(waiting)[1]


class Fleet:
    """Gateways on one store, with the faults that a test can bring about."""

    def __init__(
        self, kind: str, folder: Path, upstream_url: str, history: History, rng: random.Random, *, lossy: bool
    ) -> None:
        self._kind = kind
        self._lossy = lossy
        self._folder = folder
        self._upstream_url = upstream_url
        self._history = history
        self._rng = rng
        self._redis: RedisServer | None = None
        self.doors: list[Door] = []
        self.gateways: list[GatewayProcess] = []
        self.has_had_every_fault = False
        self._channels: list[grpc.aio.Channel | None] = [None] * GATEWAYS
        self._old_channels: list[grpc.aio.Channel | None] = []

    async def start(self) -> None:
        key = self._folder / "key"
        key.write_text("k" * 32)
        if self._kind == "redis":
            data = self._folder / "redis"
            data.mkdir()
            self._redis = RedisServer(data)
            self._redis.start()
        for _ in range(GATEWAYS):
            url = f"sqlite://{self._folder}/state.db"
            if self._redis is not None:
                door = Door(self._redis.port)
                await door.start()
                self.doors.append(door)
                url = f"redis://127.0.0.1:{door.port}/0"
            settings = {"state_url": url, "state_key_file": key, "submissions_per_second": 10_000}
            self.gateways.append(GatewayProcess(self._upstream_url, calls_per_second=10_000, **settings))
        await asyncio.gather(*(gateway.start() for gateway in self.gateways))

    async def send(self, number: int, request_id: str) -> Answer:
        channel = self._channels[number]
        if channel is None:
            options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500))
            channel = self._channels[number] = grpc.aio.insecure_channel(self.gateways[number].address, options)
        return await send_over(rpc.JobServiceStub(channel), request_id, CALL_SECONDS)

    async def fail(self) -> None:
        """Bring about one random fault, and end it: each kind once, then by their weights."""
        weights = {self.kill: 5, self.suspend: 1, self.pause: 2}
        if self._redis is not None:
            weights |= {self.cut_off: 3, self.restart: 3}
        if self._lossy:
            weights[self.lose] = 3
        unseen = [each for each in weights if not self._history.faults[each.__name__]]
        (fault,) = [self._rng.choice(unseen)] if unseen else self._rng.choices(list(weights), [*weights.values()])
        await fault()
        self._history.faults[fault.__name__] += 1
        self.has_had_every_fault = len(unseen) <= 1

    async def kill(self) -> None:
        number = self._rng.randrange(GATEWAYS)
        gateway = self.gateways[number]
        await gateway.kill()
        await gateway.start()
        # Closed later, because that would cancel the calls on it.
        self._old_channels.append(self._channels[number])
        self._channels[number] = None

    async def suspend(self) -> None:
        await self._stop_for(CLAIM_SECONDS + 1)

    async def pause(self) -> None:
        await self._stop_for(self._rng.uniform(0.1, 2))

    async def _stop_for(self, seconds: float) -> None:
        gateway = self._rng.choice(self.gateways)
        gateway.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        gateway.signal(signal.SIGCONT)

    async def cut_off(self) -> None:
        door = self._rng.choice(self.doors)
        door.shut()
        await asyncio.sleep(self._rng.uniform(0.1, 3))
        door.open()

    async def restart(self) -> None:
        assert self._redis is not None
        self._redis.kill()
        await asyncio.sleep(self._rng.uniform(0, 1))
        await asyncio.to_thread(self._redis.start)

    async def lose(self) -> None:
        assert self._redis is not None
        self._redis.kill()
        self._redis.empty()
        self._history.losses.append(time.monotonic())
        await asyncio.to_thread(self._redis.start)

    async def stop(self) -> None:
        for channel in (*self._channels, *self._old_channels):
            if channel is not None:
                await channel.close()
        for gateway in self.gateways:
            await gateway.kill()
        for door in self.doors:
            await door.stop()
        if self._redis is not None:
            self._redis.kill()


async def run(kind: str, sends: int, seed: int, folder: Path, *, lossy: bool = False) -> History:
    """Run one history: `sends` sends or more, until each kind of fault has happened, then each id once more."""
    rng = random.Random(seed)
    history = History()
    upstream = RandomUpstream(history, random.Random(seed + 1))
    await upstream.start()
    fleet = Fleet(kind, folder, upstream.url, history, random.Random(seed + 2), lossy=lossy)
    ids = plan(rng)
    sent = itertools.count(1)

    async def work() -> None:
        while next(sent) <= sends or not fleet.has_had_every_fault:
            request_id = next(ids)
            got = await fleet.send(rng.randrange(GATEWAYS), request_id)
            history.answers.setdefault(request_id, []).append(got)

    async def fail() -> None:
        while True:
            await asyncio.sleep(rng.uniform(0.1, 0.8))
            await fleet.fail()
            if over:
                return

    async def look(waiting: Iterator[str]) -> None:
        for request_id in waiting:
            for _ in range(LAST_ATTEMPTS):
                history.last[request_id] = await fleet.send(rng.randrange(GATEWAYS), request_id)
                if history.last[request_id].reason in OUTCOMES:
                    break
                await asyncio.sleep(1)

    try:
        await fleet.start()
        over = False
        failing = asyncio.create_task(fail())
        await asyncio.gather(*(work() for _ in range(WORKERS)))
        over = True
        await failing
        history.calm_at = time.monotonic()
        again = iter(list(history.answers))
        await asyncio.gather(*(look(again) for _ in range(WORKERS)))
    finally:
        await fleet.stop()
        await upstream.stop()
    return history


def figures(history: History, seconds: float) -> dict[str, Any]:
    """Return the numbers of a history."""
    answers = [each for every in history.answers.values() for each in every] + list(history.last.values())
    made = Counter(sum(post.uid is not None for post in posts) for posts in history.posts.values())
    return {
        "seconds": round(seconds),
        "sends": len(answers),
        "ids": len(history.answers),
        "posts": sum(map(len, history.posts.values())),
        "jobs per id": dict(sorted(made.items())),
        "ends": dict(Counter(each.reason or ("REPLAYED" if each.replayed else "OK") for each in answers)),
        "forgotten": history.forgotten,
        "faults": dict(history.faults),
        "complaints": list(complaints(history)),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "redis"), default="redis")
    parser.add_argument("--sends", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lossy", action="store_true", help="Redis loses its data at times")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = run(arguments.store, arguments.sends, arguments.seed, Path(folder), lossy=arguments.lossy)
        history = asyncio.run(done)
    print(json.dumps(figures(history, time.monotonic() - began)))  # noqa: T201 - a command


if __name__ == "__main__":
    main()
