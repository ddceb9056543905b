"""The resuming watch for asyncio: a job's events up to its end, over as many calls as needed (docs/clients/)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobclient.failure import Failure
from jobclient.resume import NO_END, SILENT, Attempts, OnResume, silence_seconds

if TYPE_CHECKING:
    from jobclient.connection import AioConnection


async def watch(
    connection: AioConnection, request: pb.WatchJobRequest, on_resume: OnResume
) -> AsyncGenerator[pb.JobEvent]:
    """Yields the events of a job; the last one has `job.done`. `on_resume` is told before each further call.

    Close it (`contextlib.aclosing`) where you leave it before its end.

    Raises:
        grpc.RpcError: a status that is final.

    """
    going_on = pb.WatchJobRequest()
    going_on.CopyFrom(request)
    attempts = Attempts()
    while True:
        attempts.opened()
        stub = connection.stub
        call = stub.WatchJob(going_on, metadata=connection.metadata)
        done = False
        try:
            while event := await _next(call, silence_seconds(request)):
                attempts.heard(event)
                going_on.resume_token = event.resume_token or going_on.resume_token
                done = event.job.done
                yield event
        except TimeoutError:
            failure = SILENT
        except grpc.aio.AioRpcError as error:
            failure = Failure.of(error)
            if not done and not attempts.may_go_on(failure, going_on.resume_token):
                raise
        else:
            failure = NO_END
        finally:
            call.cancel()  # a call that was merely abandoned stays open
        if done:
            return
        on_resume(failure)
        await asyncio.sleep(attempts.wait(failure))
        connection.recover(failure, stub)


async def _next(call: grpc.aio.UnaryStreamCall[pb.WatchJobRequest, pb.JobEvent], limit: float) -> pb.JobEvent | None:
    """The next event, None after the last one; where it takes longer than `limit` seconds, the call is cancelled."""
    async with asyncio.timeout(limit):
        event = await call.read()
    return event if isinstance(event, pb.JobEvent) else None
