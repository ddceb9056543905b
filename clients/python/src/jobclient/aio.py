"""The client, over the asyncio API."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobclient.connection import AioConnection
from jobclient.failure import LOGIN, Failure
from jobclient.resume import Attempts
from jobclient.scenario import Reporter, UnaryRetries, unary_request, watch_request
from jobclient.watch_aio import watch


class StepFailedError(Exception):
    """A step ended with an error that was reported."""


async def call(connection: AioConnection, step: dict[str, Any], uid: int) -> pb.Job:
    """Makes a unary call, again where its error says so."""
    method, request, seconds = unary_request(step, uid)
    reporter, retries, attempts = Reporter(step["do"]), UnaryRetries(request), Attempts()
    while True:
        try:
            job: pb.Job = await getattr(connection.stub, method)(request, metadata=connection.metadata, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            failure = Failure.of(error)
            reporter.failure(failure)
            if not retries.may_retry(failure):
                raise StepFailedError from error
            await asyncio.sleep(attempts.wait(failure))
            if failure.action == LOGIN:
                connection.log_in()
            continue
        reporter.job(job)
        if job.done or step["do"] != "wait":
            return job


async def follow(connection: AioConnection, step: dict[str, Any], uid: int) -> None:
    """Watches a job up to its end."""
    reporter = Reporter("watch")
    try:
        async with aclosing(watch(connection, watch_request(step, uid), reporter.resumption)) as events:
            async for event in events:
                reporter.event(event)
    except grpc.aio.AioRpcError as error:
        reporter.failure(Failure.of(error))
        raise StepFailedError from error


async def main() -> None:
    """Does the steps of a scenario."""
    target, scenario, service_config = sys.argv[1:]
    steps = json.loads(Path(scenario).read_text())["steps"]  # noqa: ASYNC240 - nothing else runs yet
    connection = AioConnection(
        target,
        Path(service_config).read_text(),  # noqa: ASYNC240 - nothing else runs yet
        os.environ["JOBGATEWAY_TOKEN"],
        lambda: os.environ["JOBGATEWAY_FRESH_TOKEN"],
    )
    uid = 0
    try:
        for step in steps:
            about = int(step.get("uid", uid))
            with suppress(StepFailedError):  # it was reported
                if step["do"] == "watch":
                    await follow(connection, step, about)
                else:
                    uid = (await call(connection, step, about)).uid
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
