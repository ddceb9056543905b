"""The program over the asyncio API."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import AsyncClient, GatewayError

from scenario.report import Login, Reporter, wait_request, watch_request


async def do(client: AsyncClient, step: dict[str, Any], uid: int) -> int:
    """Do one step about the job `uid`, and return the job of the next one."""
    reporter = Reporter(step["do"])
    match step["do"]:
        case "watch":
            async with client.watch(watch_request(step, uid), on_resume=reporter.resumption) as watch:
                async for event in watch:
                    reporter.event(event, watch.result)
            return uid
        case "wait":
            done = False
            while not done:
                job = await client.wait(wait_request(step, uid), on_retry=reporter.retry)
                reporter.job(job)
                done = job.done
            return uid
        case "send":
            job = await client.send(pb.SendJobRequest(**step["request"]), on_retry=reporter.retry)
        case "get":
            job = await client.get(uid, on_retry=reporter.retry)
        case "cancel":
            job = await client.cancel(uid, on_retry=reporter.retry)
        case unknown:
            raise ValueError(f"no step is called {unknown}")
    reporter.job(job)
    return job.uid


async def main() -> None:
    """Do the steps of a scenario."""
    target, scenario, service_config = sys.argv[1:]
    steps = json.loads(Path(scenario).read_text())["steps"]  # noqa: ASYNC240 - nothing else runs yet
    config = Path(service_config).read_text()  # noqa: ASYNC240 - nothing else runs yet
    uid = 0
    async with AsyncClient(target, token=Login(), service_config=config) as client:
        for step in steps:
            try:
                uid = await do(client, step, int(step.get("uid", uid)))
            except GatewayError as error:
                Reporter(step["do"]).error(error)


if __name__ == "__main__":
    asyncio.run(main())
