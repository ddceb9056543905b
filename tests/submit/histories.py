"""Random histories of sends through several gateways with faults, and a checker of them.

    python -m tests.submit.histories --store redis --sends 10000 --seed 1

The checker states: for each id, the upstream saw at most one POST that it did not certainly refuse; every OK has the
uid of that job; and every error is true. If Redis loses its data, an id may be posted once more for each loss.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from jobgateway.v1 import job_service_pb2_grpc as rpc

from tests.submit.fleet import CLAIM_SECONDS, Answer, GatewayProcess, send_over
from tests.support.redis import Door, RedisServer
from tests.support.upstream import Connection, ReceivedRequest, ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

GATEWAYS = 3
WORKERS = 48
# Sends of one id are this close to each other in the plan, so that many are in flight together.
SPREAD = 60
CALL_SECONDS = 20.0
# Ends of calls that say nothing about the job: the gateway died, or the caller's time is over.
NO_ANSWER = frozenset({"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED"})
TRUE_ERRORS = NO_ANSWER | {
    "STATE_UNAVAILABLE",
    "SUBMIT_OUTCOME_UNKNOWN",
    "UPSTREAM_BAD_REQUEST",
    "UPSTREAM_UNREACHABLE",
}


@dataclass
class Post:
    """A POST that the upstream saw: the `uid` of the job that it made, or None for a certain refusal."""

    at: float
    uid: int | None


@dataclass
class History:
    """Everything that happened, by id."""

    posts: dict[str, list[Post]] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    losses: list[float] = field(default_factory=list)


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
        uids = {each.uid for each in answers if not each.reason}
        if not uids <= {post.uid for post in made}:
            yield f"{request_id}: OK with the uids {uids}, and the jobs are {[post.uid for post in made]}"
        reasons = {each.reason for each in answers if each.reason}
        if not reasons <= TRUE_ERRORS:
            yield f"{request_id}: unexpected errors {reasons - TRUE_ERRORS}"
        if "UPSTREAM_BAD_REQUEST" in reasons and len(made) == len(posts):
            yield f"{request_id}: refused, and the upstream refused nothing"
        fresh = sum(not each.replayed for each in answers if not each.reason)
        if fresh > len(made):
            yield f"{request_id}: {fresh} calls say that they sent the job, and {len(made)} did"


def plan(rng: random.Random, sends: int) -> list[str]:
    """Return the ids to send, in order: each one to four times, close to each other."""
    placed: list[tuple[float, str]] = []
    number = 0
    while len(placed) < sends:
        number += 1
        start = len(placed)
        placed += [(start + rng.uniform(0, SPREAD), f"id-{number}") for _ in range(rng.randint(1, 4))]
    return [request_id for _, request_id in sorted(placed)][:sends]


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
        """Bring about one random fault, and end it."""
        faults: list[tuple[str, Callable[[], Awaitable[None]], int]] = [("kill", self._kill, 5)]
        faults += [("suspend", self._suspend, 1), ("pause", self._pause, 2)]
        if self._redis is not None:
            faults += [("cut off", self._cut_off, 3), ("redis restart", self._restart, 3)]
        if self._lossy:
            faults += [("redis empty", self._lose, 3)]
        (chosen,) = self._rng.choices(faults, [weight for *_, weight in faults])
        name, fault, _ = chosen
        self._history.faults[name] += 1
        await fault()

    async def _kill(self) -> None:
        number = self._rng.randrange(GATEWAYS)
        gateway = self.gateways[number]
        await gateway.kill()
        await gateway.start()
        # Closed later, because that would cancel the calls on it.
        self._old_channels.append(self._channels[number])
        self._channels[number] = None

    async def _suspend(self) -> None:
        await self._stop_for(CLAIM_SECONDS + 1)

    async def _pause(self) -> None:
        await self._stop_for(self._rng.uniform(0.1, 2))

    async def _stop_for(self, seconds: float) -> None:
        gateway = self._rng.choice(self.gateways)
        gateway.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        gateway.signal(signal.SIGCONT)

    async def _cut_off(self) -> None:
        door = self._rng.choice(self.doors)
        door.shut()
        await asyncio.sleep(self._rng.uniform(0.1, 3))
        door.open()

    async def _restart(self) -> None:
        assert self._redis is not None
        self._redis.kill()
        await asyncio.sleep(self._rng.uniform(0, 1))
        await asyncio.to_thread(self._redis.start)

    async def _lose(self) -> None:
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
    """Run one history: a number of sends while faults come and go, then each id once more without faults."""
    rng = random.Random(seed)
    history = History()
    upstream = RandomUpstream(history, random.Random(seed + 1))
    await upstream.start()
    fleet = Fleet(kind, folder, upstream.url, history, random.Random(seed + 2), lossy=lossy)
    ids = iter(plan(rng, sends))
    over = asyncio.Event()

    async def work(waiting: Iterable[str]) -> None:
        for request_id in waiting:
            got = await fleet.send(rng.randrange(GATEWAYS), request_id)
            history.answers.setdefault(request_id, []).append(got)

    async def fail() -> None:
        while not over.is_set():
            await asyncio.sleep(rng.uniform(0.1, 0.8))
            await fleet.fail()

    try:
        await fleet.start()
        failing = asyncio.create_task(fail())
        await asyncio.gather(*(work(ids) for _ in range(WORKERS)))
        over.set()
        await failing
        again = iter(list(history.answers))
        await asyncio.gather(*(work(again) for _ in range(WORKERS)))
    finally:
        await fleet.stop()
        await upstream.stop()
    return history


def figures(history: History, seconds: float) -> dict[str, Any]:
    """Return the numbers of a history."""
    answers = [each for every in history.answers.values() for each in every]
    made = Counter(sum(post.uid is not None for post in posts) for posts in history.posts.values())
    return {
        "seconds": round(seconds),
        "sends": len(answers),
        "ids": len(history.answers),
        "posts": sum(map(len, history.posts.values())),
        "jobs per id": dict(sorted(made.items())),
        "ends": dict(Counter(each.reason or ("REPLAYED" if each.replayed else "OK") for each in answers)),
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
