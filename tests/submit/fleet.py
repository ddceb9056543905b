"""Gateways as processes of their own, which tests kill, suspend and start again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING

import grpc
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from tests.support.gateways import BEARER, Failure
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

# With it, all attempts take at most 5.4 seconds, and a claim lasts 7.4.
SUBMIT_TIMEOUT_SECONDS = 1.0
CLAIM_SECONDS = 7.4
REPLAYED = ("jobgateway-replayed", "true")


class GatewayProcess:
    """A gateway in a process of its own; `settings` are those of `serve` in small letters."""

    def __init__(self, upstream_url: str, **settings: object) -> None:
        quick = {"submit_timeout_seconds": SUBMIT_TIMEOUT_SECONDS, "listen": "127.0.0.1:0", "drain_grace_seconds": 1}
        everything = quick | {"admin_listen": "127.0.0.1:0", "upstream_url": upstream_url} | settings
        self._environment = {f"JOBGATEWAY_{name.upper()}": str(value) for name, value in everything.items()}
        self._process: asyncio.subprocess.Process | None = None
        self._draining: asyncio.Task[None] | None = None
        self.log: list[str] = []
        self.address = ""

    async def start(self, die_at: str = "") -> None:
        """Start the process, and return when it serves."""
        environment = os.environ | self._environment | ({"DIE_AT": die_at} if die_at else {})
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.submit.dying"),
            env=environment,
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.log.append(line.decode())
            if b'"serving"' in line:
                self.address = json.loads(line)["address"]
                self._draining = asyncio.create_task(self._drain(self._process.stderr))
                return
        raise RuntimeError(f"the gateway did not start: {self.log[-3:]}")

    async def _drain(self, log: asyncio.StreamReader) -> None:
        async for line in log:
            self.log.append(line.decode())

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def died(self) -> int:
        """Wait for the end of the process, and return its code."""
        assert self._process is not None
        code = await self._process.wait()
        if self._draining is not None:
            await self._draining
        return code

    async def kill(self) -> None:
        """Kill the process with -9."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            await self.died()
            self._process = None


class Answer:
    """The end of a SendJob: the `uid` and whether it was `replayed`, or the `reason` of an error."""

    def __init__(self, uid: int | None, reason: str, *, replayed: bool = False, retry: bool = False) -> None:
        self.uid = uid
        self.reason = reason
        self.replayed = replayed
        self.retry = retry

    def __repr__(self) -> str:
        return f"Answer({self.uid}, {self.reason!r}, replayed={self.replayed})"


def request_of(request_id: str) -> pb.SendJobRequest:
    """A request whose params name its id, so that the upstream can count the POSTs of each."""
    request = pb.SendJobRequest(workspace_id="1", entity_id=7, method_name="m", request_id=request_id)
    request.params.update({"id": request_id})
    return request


async def send(
    address: str,
    request_id: str,
    timeout: float = 30.0,
    metadata: tuple[tuple[str, str], ...] = BEARER,
    options: Mapping[str, int] | None = None,
) -> Answer:
    """Send a job over a connection of its own."""
    arguments = {"grpc.use_local_subchannel_pool": 1, **(options or {})}
    async with grpc.aio.insecure_channel(address, tuple(arguments.items())) as channel:
        return await send_over(rpc.JobServiceStub(channel), request_id, timeout, metadata)


async def send_over(
    stub: rpc.JobServiceAsyncStub, request_id: str, timeout: float, metadata: tuple[tuple[str, str], ...] = BEARER
) -> Answer:
    """Send a job over a connection that there is."""
    call = stub.SendJob(request_of(request_id), metadata=metadata, timeout=timeout)
    try:
        job = await call
    except grpc.aio.AioRpcError as error:
        if "grpc-status-details-bin" not in dict(error.trailing_metadata() or ()):
            return Answer(None, error.code().name)
        failure = Failure(error)
        return Answer(None, failure.reason, retry=failure.retry is not None)
    trailers = await call.trailing_metadata()
    return Answer(job.uid, "", replayed=REPLAYED in {(each[0], each[1]) for each in trailers})
