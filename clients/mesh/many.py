"""The case `many`: five thousand jobs on one stream through a proxy that allows a hundred streams."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import AsyncClient

from clients.mesh.cases import JOB_SECONDS, Case, Mesh, nothing
from clients.mesh.proxies import Envoy, Faults
from clients.runner.scenarios import SERVICE_CONFIG
from clients.runner.stack import TOKEN

if TYPE_CHECKING:
    from jobgateway_client import Retry

JOBS = 5_000
STREAMS = 100
SENDERS = 50
SECONDS = 120.0
MANY = Case(
    "many",
    "five thousand jobs on one stream through a proxy that allows a hundred streams",
    nothing,
    faults=Faults(max_streams=STREAMS),
    proxies=(Envoy,),
    replicas=1,
    # The simulator and the other rows need the processor too.
    settings={"JOBGATEWAY_POLLS_PER_SECOND": "500"},
)


class _Study:
    """The jobs of a parametric study, and the events of the stream that watches them."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.uids: list[int] = []
        self.states: Counter[int] = Counter()
        self.ends: Counter[int] = Counter()
        self.failures: list[str] = []

    async def send(self, client: AsyncClient) -> None:
        """Send the jobs, some at a time."""
        params = f'{{"duration": {JOB_SECONDS}, "steps": 2}}'.encode()
        request = pb.SendJobRequest(workspace_id="1", entity_id=7, method_name="succeed", params_json=params)
        left = iter(range(JOBS))

        async def send_some() -> None:
            for _ in left:
                self.uids.append((await client.send(request)).uid)

        async with asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(send_some())

    async def watch(self, client: AsyncClient) -> None:
        """Watch all jobs until each has ended."""
        requests = [pb.WatchJobRequest(uid=uid, heartbeat_interval=Duration(seconds=4)) for uid in self.uids]
        async with client.watch_all(requests, on_retry=self._resumption) as watch:
            async for item in watch:
                if not isinstance(item, pb.JobEvent):
                    self.failures.append(f"{item.uid}: {item.error}")
                elif item.HasField("job"):
                    self.states[item.uid] += 1
                    self.ends[item.uid] += item.job.done
                    self._mesh.signal.changed()

    def _resumption(self, retry: Retry) -> None:
        if not retry.uid:
            self.failures.append(f"resumed after {retry.error}")

    def problem(self) -> str:
        """Return what is wrong in the end, or an empty text."""
        wrong = sum(self.ends[uid] != 1 for uid in self.uids)
        return ", ".join([*self.failures[:3], *([f"{wrong} jobs without exactly one end"] if wrong else [])])


async def check(mesh: Mesh) -> dict[str, str]:
    """Return the problem of the stream, or an empty text."""
    study, problem, start = _Study(mesh), "", time.monotonic()
    async with AsyncClient(mesh.target, token=TOKEN, service_config=SERVICE_CONFIG.read_text()) as client:
        await study.send(client)
        sent = time.monotonic()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(study.watch(client))
            try:
                await mesh.signal.until(lambda: len(study.states) == JOBS, "a state of each job", SECONDS)
                caught_up = time.monotonic()
                mesh.release()
                await mesh.signal.until(lambda: len(+study.ends) == JOBS, "an end of each job", SECONDS)
                mesh.notes = f"sent {sent - start:.0f} s, caught up {caught_up - sent:.0f} s, "
                mesh.notes += f"all ends {time.monotonic() - caught_up:.0f} s"
            except TimeoutError as error:
                problem = str(error)
                watching.cancel()
    return {MANY.name: problem or study.problem()}
