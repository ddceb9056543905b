"""The case `sharing`: how many polls a fleet makes for the watchers of the same jobs, compared with one gateway."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc
from jobgateway_client import AsyncClient

from clients.mesh.cases import JOB_SECONDS, Case, Mesh, nothing
from clients.mesh.checks import BEARER, LARGE_PARAMS
from clients.mesh.gateways import Gateway
from clients.mesh.proxies import ROUTERS, Envoy, EnvoyHashMessage
from clients.runner.scenarios import SERVICE_CONFIG
from clients.runner.stack import TOKEN
from gateway.server import defaults

if TYPE_CHECKING:
    from collections.abc import Sequence

JOBS = 20
WATCHERS_PER_JOB = 3
# Of one gateway, while both are measured.
POLLS = 400
MOST = 1.1
# With fewer, the fleet would not watch all jobs.
FEWEST = 0.9
# Of watchers that are balanced by load. Below this number, the comparison shows nothing.
FEWEST_UNSHARED = 1.5
REQUEST_IDS = 8
LARGEST_REQUEST = defaults.MAX_REQUEST_BYTES - 1000
SECONDS = 90.0
SHARING = Case("sharing", "sixty watchers of twenty jobs behind three replicas", nothing, proxies=ROUTERS, replicas=4)

_JOB = re.compile(r"/jobs/(\d+)")


class _Watchers:
    """Watchers of twenty new jobs, three for each."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._events: dict[tuple[int, int], int] = {}

    async def start(self, client: AsyncClient, group: asyncio.TaskGroup) -> None:
        """Send the jobs and watch them, in tasks of `group`."""
        uids = [(await client.send(_job(duration=JOB_SECONDS, steps=2))).uid for _ in range(JOBS)]
        self._events = dict.fromkeys(itertools.product(uids, range(WATCHERS_PER_JOB)), 0)
        for watcher in self._events:
            group.create_task(self._follow(client, watcher))
        await self.all_receive_more()

    async def _follow(self, client: AsyncClient, watcher: tuple[int, int]) -> None:
        request = pb.WatchJobRequest(uid=watcher[0], heartbeat_interval=Duration(seconds=4))
        async with client.watch(request) as events:
            async for _ in events:
                self._events[watcher] += 1
                self._mesh.signal.changed()

    async def all_receive_more(self) -> None:
        """Return when each watcher has received a further event."""
        before = dict(self._events)
        await self._mesh.signal.until(
            lambda: all(self._events[each] > before[each] for each in before), "a further event for each", SECONDS
        )

    def polls(self) -> int:
        """Return the number of polls of these jobs until now."""
        uids = {uid for uid, _ in self._events}
        found = (_JOB.search(each.path) for each in self._mesh.simulator.requests if each.method == "GET")
        return sum(each is not None and int(each[1]) in uids for each in found)


async def _ratio(fleet: Sequence[_Watchers], one: _Watchers, mesh: Mesh) -> float:
    """Return the polls of a fleet per set of jobs, divided by those of one gateway in the same time."""
    await asyncio.gather(*(each.all_receive_more() for each in fleet))
    before, start = sum(each.polls() for each in fleet), one.polls()
    await mesh.signal.until(lambda: one.polls() - start >= POLLS, f"{POLLS} polls of one gateway", SECONDS)
    return (sum(each.polls() for each in fleet) - before) / len(fleet) / (one.polls() - start)


async def check(mesh: Mesh) -> dict[str, str]:
    """Return the problem of the proxy, or an empty text."""
    shares = mesh.kind is not Envoy
    *replicas, added = mesh.gateways
    await added.kill()
    one = Gateway(mesh.simulator.url)
    ratios: dict[str, float] = {}
    problems: list[str] = []
    async with AsyncExitStack() as stack:
        stack.push_async_callback(one.kill)
        await one.start()
        direct = await stack.enter_async_context(_client("{}:{}".format(*one.address)))
        proxied = await stack.enter_async_context(_client(mesh.target))
        try:
            async with asyncio.TaskGroup() as group:
                alone, first, second = (_Watchers(mesh) for _ in range(3))
                await alone.start(direct, group)
                await first.start(proxied, group)
                ratios["three replicas"] = await _ratio([first], alone, mesh)
                if shares:
                    await added.start()
                    await _is_called(added, mesh)
                    await second.start(proxied, group)
                    ratios["one added"] = await _ratio([first, second], alone, mesh)
                    await replicas[0].kill()
                    ratios["one killed"] = await _ratio([first, second], alone, mesh)
                mesh.release()
        except* TimeoutError as errors:
            problems += [str(error) for error in errors.exceptions]
    if mesh.kind is EnvoyHashMessage:
        problems += await _requests(mesh)
    good = [FEWEST <= each <= MOST if shares else each >= FEWEST_UNSHARED for each in ratios.values()]
    mesh.notes = ", ".join(f"{name} {each:.2f}" for name, each in ratios.items())
    return {SHARING.name: ", ".join(problems) if problems else "" if all(good) else mesh.notes}


def _client(target: str) -> AsyncClient:
    return AsyncClient(target, token=TOKEN, service_config=SERVICE_CONFIG.read_text())


async def _is_called(gateway: Gateway, mesh: Mesh) -> None:
    """Return when the proxy has added a gateway."""
    async with grpc.aio.insecure_channel(mesh.target) as channel, asyncio.timeout(SECONDS):
        for uid in itertools.count(1_000_000):
            call = rpc.JobServiceStub(channel).GetJob(
                pb.GetJobRequest(uid=uid), metadata=(*BEARER, ("x-job-uid", str(uid)))
            )
            await call.code()
            if gateway.ended("GetJob"):
                return


async def _requests(mesh: Mesh) -> list[str]:
    """Return the problems of submissions if the proxy reads the `request_id`."""
    problems = []
    sent = sum(each.method == "POST" for each in mesh.simulator.requests)
    async with grpc.aio.insecure_channel(mesh.target) as channel:
        jobs = rpc.JobServiceStub(channel)
        for number in range(REQUEST_IDS):
            one, two = [await jobs.SendJob(_job(f"order-{number}"), metadata=BEARER) for _ in range(2)]
            if one.uid != two.uid:
                problems.append(f"order-{number} made two jobs")
        posts = sum(each.method == "POST" for each in mesh.simulator.requests) - sent
        if posts != REQUEST_IDS:
            problems.append(f"{posts} POSTs of {REQUEST_IDS} request_ids")
        before = [len(each.ended("SendJob")) for each in mesh.gateways]
        for _ in range(4 * REQUEST_IDS):
            await jobs.SendJob(_job(), metadata=BEARER)
        added = [len(each.ended("SendJob")) - old for each, old in zip(mesh.gateways, before, strict=True)]
        if sum(map(bool, added)) < len(mesh.gateways) - 1:
            problems.append(f"submissions without a request_id went to {added}")
        # The gateway rejects such a JSON text, but a Struct of this size may be valid.
        large = jobs.SendJob(_job(filling="x" * LARGEST_REQUEST), metadata=BEARER)
        if "params_json" not in await large.details():
            problems.append(f"a large request: {await large.details()}")
        compressed = jobs.SendJob(_job(filling="x" * LARGE_PARAMS), metadata=BEARER, compression=grpc.Compression.Gzip)
        if await compressed.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            problems.append("a compressed request was not rejected")
    return problems


def _job(request_id: str = "", **params: object) -> pb.SendJobRequest:
    return pb.SendJobRequest(
        workspace_id="1",
        entity_id=7,
        method_name="succeed",
        request_id=request_id,
        params_json=json.dumps(params).encode(),
    )
