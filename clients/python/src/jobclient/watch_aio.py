"""The resuming watch for asyncio: a job's events up to its end, over as many calls as that takes (docs/clients.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc
from jobgateway.v1 import job_service_pb2 as pb

from jobclient.failure import Failure
from jobclient.resume import SILENT, Attempts, OnResume, ProtocolViolationError, silence_seconds

if TYPE_CHECKING:
    from jobclient.connection import AioConnection


async def watch(
    connection: AioConnection, request: pb.WatchJobRequest, on_resume: OnResume
) -> AsyncIterator[pb.JobEvent]:
    """Yields the events of a job; the last one has `job.done`. `on_resume` is told before each further call.

    Close it (`contextlib.aclosing`) where you leave it before its end.

    Raises:
        grpc.RpcError: a status that is final.
        ProtocolViolationError: the stream ended with OK and without the job's end.

    """
    going_on = pb.WatchJobRequest()
    going_on.CopyFrom(request)
    attempts = Attempts()
    while True:
        attempts.opened()
        call = connection.stub.WatchJob(going_on, metadata=connection.metadata)
        done = False
        try:
            while (event := await asyncio.wait_for(call.read(), silence_seconds(request))) is not grpc.aio.EOF:
                attempts.heard()
                going_on.resume_token = event.resume_token or going_on.resume_token
                done = event.job.done
                yield event
            if done:
                return
            raise ProtocolViolationError
        except TimeoutError:
            failure = SILENT
            resumption = attempts.resumption(failure)
        except grpc.aio.AioRpcError as error:
            if done:
                return
            failure = Failure.of(error)
            resumption = attempts.resumption(failure)
            if resumption is None:
                raise
        finally:
            call.cancel()  # a call that was merely abandoned stays open
        on_resume(resumption)
        await asyncio.sleep(attempts.wait(failure))
        if failure.code is grpc.StatusCode.UNAUTHENTICATED:
            connection.log_in()
        if resumption.new_connection:
            await connection.renew()
