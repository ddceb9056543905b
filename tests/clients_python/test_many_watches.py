"""Fifty watches on one Python client, also on one stream, while the gateway is drained, killed and restarted."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import AsyncClient, Client, WatchFailed

from clients.runner.gateways import GatewayProcess
from gateway.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from jobgateway_client import Retry

pytestmark = pytest.mark.slow

TOKEN = "token-of-the-test"
WATCHES = 50
LONGEST_SECONDS = 90
REQUEST = pb.SendJobRequest(workspace_id="1", entity_id=7, method_name="succeed", params_json=b'{"duration": 1000}')


class Service:
    """A simulator whose jobs end on demand, and a gateway process in front of it."""

    def __init__(self) -> None:
        self._now = 0.0
        self.simulator = Simulator(tokens=frozenset({TOKEN}), clock=lambda: self._now)
        self.gateway: GatewayProcess

    @property
    def target(self) -> str:
        return "{}:{}".format(*self.gateway.address)

    async def fail_twice(self, heard: Callable[[], bool]) -> None:
        """Drain and restart the gateway, then kill and restart it; finally let the jobs end."""
        for end in (self._drain, self.gateway.kill):
            await until(heard)
            await end()
            await self.gateway.start()
        await until(heard)
        self._now = 2000.0

    async def _drain(self) -> None:
        self.gateway.drain()
        await self.gateway.gone()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONGEST_SECONDS):
        while not condition():  # noqa: ASYNC110 - also for events of threads
            await asyncio.sleep(0.05)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    await service.simulator.start("127.0.0.1", 0)
    service.gateway = GatewayProcess(service.simulator.url, {})
    await service.gateway.start()
    yield service
    await service.gateway.kill()
    await service.simulator.stop()


class Seen:
    """The events of all watches."""

    def __init__(self) -> None:
        self.ends: Counter[int] = Counter()
        self.resumed: Counter[int] = Counter()
        self._heard: set[int] = set()

    def take(self, event: pb.JobEvent) -> None:
        self._heard.add(event.uid)
        self.ends[event.uid] += event.job.done

    def take_item(self, item: pb.JobEvent | WatchFailed) -> None:
        assert not isinstance(item, WatchFailed), item
        if item.uid:
            self.take(item)
        elif item.HasField("heartbeat"):
            # The one stream is alive, and so are all its watches.
            self._heard |= self.ends.keys()

    def resumption_of_all(self, uids: list[int]) -> Callable[[Retry], None]:
        return lambda retry: self.resumed.update([] if retry.uid else uids)

    def resumption(self, uid: int) -> Callable[[Retry], None]:
        def note(_: Retry) -> None:
            self.resumed[uid] += 1

        return note

    def all_heard(self) -> bool:
        """Return True once each watch has heard something since the last time."""
        if len(self._heard) < WATCHES:
            return False
        self._heard = set()
        return True


def watch_request(uid: int) -> pb.WatchJobRequest:
    return pb.WatchJobRequest(uid=uid, heartbeat_interval=Duration(seconds=2))


async def follow_async(service: Service, seen: Seen) -> None:
    async with AsyncClient(service.target, token=TOKEN) as client:
        uids = [(await client.send(REQUEST)).uid for _ in range(WATCHES)]

        async def follow(uid: int) -> None:
            async for event in client.watch(watch_request(uid), on_retry=seen.resumption(uid)):
                seen.take(event)

        await asyncio.gather(*map(follow, uids))


async def follow_in_threads(service: Service, seen: Seen) -> None:
    with Client(service.target, token=TOKEN) as client:

        def follow() -> None:
            uid = client.send(REQUEST).uid
            for event in client.watch(watch_request(uid), on_retry=seen.resumption(uid)):
                seen.take(event)

        await in_threads(follow)


async def follow_all_async(service: Service, seen: Seen) -> None:
    async with AsyncClient(service.target, token=TOKEN) as client:
        uids = [(await client.send(REQUEST)).uid for _ in range(WATCHES)]
        async for item in client.watch_all(map(watch_request, uids), on_retry=seen.resumption_of_all(uids)):
            seen.take_item(item)


async def follow_all_in_thread(service: Service, seen: Seen) -> None:
    def follow() -> None:
        with Client(service.target, token=TOKEN) as client:
            uids = [client.send(REQUEST).uid for _ in range(WATCHES)]
            for item in client.watch_all(map(watch_request, uids), on_retry=seen.resumption_of_all(uids)):
                seen.take_item(item)

    await asyncio.to_thread(follow)


async def in_threads(follow: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(WATCHES) as pool:
        await asyncio.gather(*(loop.run_in_executor(pool, follow) for _ in range(WATCHES)))


@pytest.mark.parametrize("follow", [follow_in_threads, follow_async, follow_all_in_thread, follow_all_async])
async def test_fifty_watches_survive_a_drain_and_a_kill(
    service: Service, follow: Callable[[Service, Seen], Coroutine[Any, Any, None]]
) -> None:
    seen = Seen()
    async with asyncio.timeout(3 * LONGEST_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(service.fail_twice(seen.all_heard))
        group.create_task(follow(service, seen))
    assert list(seen.ends.values()) == [1] * WATCHES
    assert all(seen.resumed[uid] >= 2 for uid in seen.ends)
