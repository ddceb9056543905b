"""The asyncio watch of one job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client.aio_following import AsyncFollowing
from jobgateway_client.one_job import OneJobState

if TYPE_CHECKING:
    from jobgateway_client import calls
    from jobgateway_client.aio_connections import Connections
    from jobgateway_client.aio_credential import Credential
    from jobgateway_client.deadline import Deadline
    from jobgateway_client.one_job import OneJob


class AsyncWatch(OneJobState, AsyncFollowing[pb.JobEvent]):
    """The events of a job until it ends, over as many streams as necessary.

    It is used as a `Watch`, with `async with` and `async for`. One task reads at a time, and any task may call `close`.
    If the task that reads is cancelled, as by `asyncio.wait_for`, the next use continues.

    Raises (while iterating):
        GatewayError: A final error.
        ResultDamagedError: The result does not match its SHA-256.

    """

    def __init__(
        self,
        connections: Connections,
        credential: Credential,
        job: OneJob,
        deadline: Deadline,
        on_retry: calls.OnRetry | None,
    ) -> None:
        super().__init__(connections, credential, job, deadline, on_retry)
        self._job = job

    async def finish(self) -> calls.Finished:
        """Read the remaining events, and return the job and its result.

        Raises:
            GatewayError: The watch failed, or was closed before the job had ended.
            ResultDamagedError: The result does not match its SHA-256.

        """
        async for _ in self:
            pass
        return self._job.finished()
