"""The program over the asyncio API."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import AsyncClient, AsyncWatch, GatewayError

from scenario.report import (
    EachReporter,
    Login,
    ManyReporter,
    Reporter,
    run_request,
    wait_request,
    watch_request,
    watch_requests,
)


async def do(client: AsyncClient, step: dict[str, Any], sent: list[int]) -> None:
    """Do one step. `sent` are the jobs that were sent so far."""
    uid = int(step.get("uid", sent[-1] if sent else 0))
    reporter = Reporter(step["do"])
    match step["do"]:
        case "watch":
            await follow(client.watch(watch_request(step, uid), on_retry=reporter.resumption), reporter)
        case "run":
            await follow(client.run(run_request(step), on_retry=reporter.resumption), reporter)
        case "watch_each":
            await asyncio.gather(*(watch_one(client, watch_request(step, each)) for each in sent))
        case "watch_all":
            await watch_all(client, step, sent)
        case _:
            await call(client, step, uid, sent)


async def call(client: AsyncClient, step: dict[str, Any], uid: int, sent: list[int]) -> None:
    """Do a step without a stream."""
    reporter = Reporter(step["do"])
    match step["do"]:
        case "wait":
            done = False
            while not done:
                job = await client.wait(wait_request(step, uid), on_retry=reporter.retry)
                reporter.job(job)
                done = job.done
        case "send":
            for _ in range(step.get("count", 1)):
                job = await client.send(pb.SendJobRequest(**step["request"]), on_retry=reporter.retry)
                reporter.job(job)
                sent.append(job.uid)
        case "get":
            reporter.job(await client.get(uid, on_retry=reporter.retry))
        case "cancel":
            reporter.job(await client.cancel(uid, on_retry=reporter.retry))
        case unknown:
            raise ValueError(f"no step is called {unknown}")


async def follow(watch: AsyncWatch, reporter: Reporter) -> None:
    """Report the events of a watch."""
    async with watch:
        async for event in watch:
            reporter.event(event, watch.result)


async def watch_one(client: AsyncClient, request: pb.WatchJobRequest) -> None:
    """Watch one of several jobs."""
    reporter = EachReporter(request.uid)
    try:
        await follow(client.watch(request, on_retry=reporter.resumption), reporter)
    except GatewayError as error:
        reporter.error(error)


async def watch_all(client: AsyncClient, step: dict[str, Any], sent: list[int]) -> None:
    """Watch the jobs that were sent, and those of the step."""
    reporter = ManyReporter(step)
    watch = client.watch_all(watch_requests(step, sent), on_retry=reporter.retried)
    async for item in watch:
        reporter.item(item, watch.result(item.uid))
        await asyncio.sleep(reporter.pause())
    reporter.ended()


async def main() -> None:
    """Do the steps of a scenario."""
    target, scenario, service_config = sys.argv[1:]
    steps = json.loads(Path(scenario).read_text())["steps"]  # noqa: ASYNC240 - nothing else runs yet
    config = Path(service_config).read_text()  # noqa: ASYNC240 - nothing else runs yet
    sent: list[int] = []
    async with AsyncClient(target, token=Login(), service_config=config) as client:
        for step in steps:
            try:
                await do(client, step, sent)
            except GatewayError as error:
                Reporter(step["do"]).error(error)


if __name__ == "__main__":
    asyncio.run(main())
