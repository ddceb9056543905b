"""The sync watch of one job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobgateway.v1 import job_service_pb2 as pb

from jobgateway_client.following import Following
from jobgateway_client.one_job import OneJobState

if TYPE_CHECKING:
    from jobgateway_client import calls
    from jobgateway_client.connections import Connections
    from jobgateway_client.credential import Credential
    from jobgateway_client.deadline import Deadline
    from jobgateway_client.one_job import OneJob


class Watch(OneJobState, Following[pb.JobEvent]):
    """The events of a job until it ends, over as many streams as necessary.

    Iterate over it once. The last event has `job.done`; every other end is an error, which each later use raises again.
    The watch resumes after each broken stream. Use it as a context manager, or call `close`, if you leave it earlier.
    One thread reads at a time, and any thread may call `close`.

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

    def finish(self) -> calls.Finished:
        """Read the remaining events, and return the job and its result.

        Raises:
            GatewayError: The watch failed, or was closed before the job had ended.
            ResultDamagedError: The result does not match its SHA-256.

        """
        for _ in self:
            pass
        return self._job.finished()
