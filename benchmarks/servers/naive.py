"""The naive gateway, which a team writes in an afternoon.

    python -m benchmarks.servers.naive UPSTREAM_URL

It uses `grpc.aio`, a default `httpx.AsyncClient`, `json_format`, and a poll loop for each watcher.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import grpc
import httpx
from google.protobuf import json_format
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STATUSES = {"running": pb.JOB_STATUS_RUNNING, "success": pb.JOB_STATUS_SUCCESS, "failed": pb.JOB_STATUS_ERROR}


class JobService(rpc.JobServiceServicer):
    """The methods that the team needed."""

    def __init__(self, base: str) -> None:
        self._client = httpx.AsyncClient(base_url=base)

    async def SendJob(self, request: pb.SendJobRequest, context: Any) -> pb.Job:
        """POST the job."""
        body: dict[str, Any] = {"method_name": request.method_name}
        if request.HasField("params"):
            body["params"] = json_format.MessageToDict(request.params)
        path = f"/workspaces/{request.workspace_id}/entities/{request.entity_id}/jobs/"
        return self._job(await self._request("POST", path, context, json=body))

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.Job:
        """GET the job."""
        return self._job(await self._request("GET", f"/jobs/{request.uid}/", context))

    async def WatchJob(self, request: pb.WatchJobRequest, context: Any) -> AsyncIterator[pb.JobEvent]:
        """GET the job until it is done."""
        while True:
            job = self._job(await self._request("GET", f"/jobs/{request.uid}/", context))
            yield pb.JobEvent(uid=request.uid, job=job)
            if job.done:
                return
            await asyncio.sleep(1.0)

    async def _request(self, method: str, path: str, context: Any, **more: Any) -> dict[str, Any]:
        headers = {"authorization": dict(context.invocation_metadata())["authorization"]}
        response = await self._client.request(method, path, headers=headers, **more)
        if response.is_error:
            await context.abort(grpc.StatusCode.INTERNAL, response.text)
        state: dict[str, Any] = response.json()
        return state

    def _job(self, state: dict[str, Any]) -> pb.Job:
        status = state.get("status") or "running"
        job = pb.Job(
            uid=state["uid"],
            status=STATUSES.get(status, pb.JOB_STATUS_UNSPECIFIED),
            status_text=status,
            done=status != "running",
        )
        message = state.get("message")
        if message:
            json_format.ParseDict({"message": message["message"], "percentage": message["percentage"]}, job.progress)
        if state.get("result"):
            json_format.ParseDict(state["result"], job.content)
        return job


async def main() -> None:
    """Serve until the process is killed."""
    server = grpc.aio.server()
    rpc.add_JobServiceServicer_to_server(JobService(sys.argv[1]), server)  # type: ignore[abstract] # the other methods were not needed
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


asyncio.run(main())
