"""The case `fleet`: fifty watches of one client while both gateways are drained and replaced."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import AsyncClient

from clients.mesh.cases import LONGEST_SILENCE, Case, Mesh, nothing
from clients.runner.scenarios import SERVICE_CONFIG
from clients.runner.stack import TOKEN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jobgateway_client import Retry

WATCHES = 50
HEARTBEAT_SECONDS = 4
# The client cancels a watch after three intervals without an event, and then needs time to reconnect.
MOST_SILENCE = 3 * HEARTBEAT_SECONDS + LONGEST_SILENCE
FLEET = Case("fleet", "fifty watches of one client while both gateways are drained", nothing)


class _Watch:
    """A watch with its observations."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.events = 0
        self.ends = 0
        self.silence = 0.0
        self.resumes: list[str] = []

    async def follow(self, client: AsyncClient, mesh: Mesh) -> None:
        request = pb.WatchJobRequest(uid=self.uid, heartbeat_interval=Duration(seconds=HEARTBEAT_SECONDS))
        before = time.monotonic()
        async with client.watch(request, on_retry=self._resumption) as events:
            async for event in events:
                self.events += 1
                now = time.monotonic()
                self.silence, before = max(self.silence, now - before), now
                self.ends += event.job.done
                mesh.signal.changed()

    def _resumption(self, retry: Retry) -> None:
        self.resumes.append(str(retry.error))


async def _all_receive_more(watches: Sequence[_Watch], mesh: Mesh) -> None:
    before = {each.uid: each.events for each in watches}
    await mesh.signal.until(
        lambda: all(each.events > before[each.uid] for each in watches), "a further event for each watch", 90
    )


async def check(mesh: Mesh) -> dict[str, str]:
    """Return the problem: an empty text if each watch received one end and no watch was silent for too long."""
    client = AsyncClient(mesh.target, token=TOKEN, service_config=SERVICE_CONFIG.read_text())
    params = b'{"duration": 1000, "steps": 2}'
    watches = []
    for _ in range(WATCHES):
        request = pb.SendJobRequest(workspace_id="1", entity_id=7, method_name="succeed", params_json=params)
        watches.append(_Watch((await client.send(request)).uid))
    problem = ""
    async with asyncio.TaskGroup() as group:
        for each in watches:
            group.create_task(each.follow(client, mesh))
        try:
            for gateway in mesh.gateways:
                await _all_receive_more(watches, mesh)
                await gateway.roll()
            await _all_receive_more(watches, mesh)
        except TimeoutError as error:
            problem = str(error)
        mesh.release()
    await client.close()
    ends = sum(each.ends == 1 for each in watches)
    silence = max(each.silence for each in watches)
    mesh.notes = f"{ends} ends, {silence:.1f} s, {sum(len(each.resumes) for each in watches)} resumes"
    good = ends == WATCHES and silence < MOST_SILENCE
    return {"fleet": problem or ("" if good else mesh.notes)}
