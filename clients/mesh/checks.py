"""The checks of a proxy with the recommended settings, each with one Python client.

A check returns its problem, or an empty text.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import string
from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from clients.mesh.cases import Case, Mesh, nothing
from clients.mesh.proxies import Faults
from clients.runner.stack import TOKEN
from gateway.auth.credential import MAX_TOKEN
from gateway.simulator.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BEARER = (("authorization", f"Bearer {TOKEN}"),)
PATIENT_SECONDS = 60.0
MANY_STREAMS = 300
LARGE_PARAMS = 7 << 20
LARGE_RESULT = 50_000_000
ENOUGH_FIELDS = 60
DEFAULT_GRPC_BUFFER = 4096


def _job(method: str = "succeed", **params: object) -> pb.SendJobRequest:
    return pb.SendJobRequest(workspace_id="1", entity_id=7, method_name=method, params_json=json.dumps(params).encode())


async def large_trailers(jobs: rpc.JobServiceAsyncStub, _: Mesh) -> str:
    """Check that an error with trailers of nearly 8 KB arrives complete."""
    # Non-ASCII letters take the most bytes on the wire, in the details and in grpc-message.
    errors = {"detail": "é" * 900, "params": {f"field_{number}": ["ñ" * 200] for number in range(ENOUGH_FIELDS)}}
    # CancelJob sends its status without response headers before it, so nginx treats it as one header.
    sent = await jobs.SendJob(
        _job(duration=1000, faults=[{"kind": 400, "on": "cancel", "after": 0, "times": 0, "body": errors}]),
        metadata=BEARER,
    )
    try:
        await jobs.CancelJob(pb.CancelJobRequest(uid=sent.uid), metadata=BEARER)
    except grpc.aio.AioRpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        status = status_pb2.Status.FromString(bytes(trailers.get("grpc-status-details-bin", b"")))
        fields = error_details_pb2.BadRequest()
        found = any(each.Is(fields.DESCRIPTOR) and each.Unpack(fields) for each in status.details)
        # The size on the wire, more than nginx accepts by default.
        size = len(base64.b64encode(status.SerializeToString()))
        return "" if found and size > DEFAULT_GRPC_BUFFER else f"{_text(error)} with {size} bytes of details"
    return "CancelJob did not fail"


async def large_request(jobs: rpc.JobServiceAsyncStub, _: Mesh) -> str:
    """Check that a request of 7 MB arrives."""
    await jobs.SendJob(_job(filling="x" * LARGE_PARAMS), metadata=BEARER)
    return ""


async def many_streams(jobs: rpc.JobServiceAsyncStub, _: Mesh) -> str:
    """Check that one connection can have 300 watches."""
    uid = (await jobs.SendJob(_job(duration=1000), metadata=BEARER)).uid
    watches = [jobs.WatchJob(pb.WatchJobRequest(uid=uid), metadata=BEARER) for _ in range(MANY_STREAMS)]
    reading = [asyncio.ensure_future(watch.read()) for watch in watches]
    done, _pending = await asyncio.wait(reading, timeout=PATIENT_SECONDS / 2)
    for watch in watches:
        watch.cancel()
    return "" if len(done) == MANY_STREAMS else f"{len(done)} of {MANY_STREAMS} watches received an event"


async def request_ids(jobs: rpc.JobServiceAsyncStub, mesh: Mesh) -> str:
    """Check that the upstream gets one x-request-id, although the proxy adds another."""
    await jobs.SendJob(_job(), metadata=(*BEARER, ("x-request-id", "mine")))
    *_, last = (each.headers for each in mesh.simulator.requests if each.method == "POST")
    received = last.getall("x-request-id", [])
    return "" if len(received) == 1 else f"the upstream received {received}"


async def long_token(jobs: rpc.JobServiceAsyncStub, _: Mesh) -> str:
    """Check that a token of the maximum length reaches the upstream, which rejects it."""
    # Random characters, so that HPACK does not compress it much.
    token = "".join(random.choices(string.ascii_letters + string.digits, k=MAX_TOKEN))  # noqa: S311 - it opens nothing
    try:
        await jobs.GetJob(pb.GetJobRequest(uid=1), metadata=(("authorization", f"Bearer {token}"),))
    except grpc.aio.AioRpcError as error:
        trailers = dict(error.trailing_metadata() or ())
        from_gateway = "grpc-status-details-bin" in trailers
        return "" if from_gateway and error.code() is grpc.StatusCode.UNAUTHENTICATED else _text(error)
    return "the upstream accepted the token"


async def a_minute(jobs: rpc.JobServiceAsyncStub, mesh: Mesh) -> str:
    """Check that a client can pause for a minute, and that a wait and a submission can take longer than a minute."""
    large = (await jobs.SendJob(_job(duration=0, result_bytes=LARGE_RESULT), metadata=BEARER)).uid
    long = (await jobs.SendJob(_job(duration=1000), metadata=BEARER)).uid
    mesh.simulator.inject(Fault(kind="hang", on="submit"))

    async def pause() -> str:
        request = pb.WatchJobRequest(uid=large, content_format=pb.CONTENT_FORMAT_JSON_CHUNKS)
        watch = jobs.WatchJob(request, metadata=BEARER)
        await watch.read()
        await asyncio.sleep(PATIENT_SECONDS)
        size = 0
        while isinstance(event := await watch.read(), pb.JobEvent):
            size += len(event.content_chunk.data)
        return "" if size > LARGE_RESULT / 2 else f"only {size} bytes arrived after the pause"

    async def wait() -> str:
        timeout = Duration(seconds=round(PATIENT_SECONDS) + 5)
        job = await jobs.WaitJob(pb.WaitJobRequest(uid=long, timeout=timeout), metadata=BEARER)
        return "the job ended" if job.done else ""

    async def submit() -> str:
        # The upstream never responds. The gateway's own timeout expires before that of the proxy.
        try:
            await jobs.SendJob(_job(), metadata=BEARER)
        except grpc.aio.AioRpcError as error:
            return "" if "grpc-status-details-bin" in dict(error.trailing_metadata() or ()) else _text(error)
        return "the upstream responded"

    found = await asyncio.gather(pause(), wait(), submit(), return_exceptions=True)
    names = ("pause", "wait", "submit")
    return ", ".join(f"{name}: {_text(each)}" for name, each in zip(names, found, strict=True) if each != "")


def _text(found: str | BaseException) -> str:
    return f"{found.code().name} {found.details()}" if isinstance(found, grpc.aio.AioRpcError) else str(found)


CHECKS: dict[str, Callable[[rpc.JobServiceAsyncStub, Mesh], Awaitable[str]]] = {
    "large_trailers": large_trailers,
    "large_request": large_request,
    "many_streams": many_streams,
    "request_ids": request_ids,
    "long_token": long_token,
    "a_minute": a_minute,
}
SETTINGS = Case("settings", "the checks of the recommended settings", nothing, Faults(adds_request_id=True))


async def check(mesh: Mesh) -> dict[str, str]:
    """Run all checks one after the other, each with its own connection; return the problems by name."""

    async def one(name: str) -> tuple[str, str]:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(mesh.target, options) as channel:
            try:
                return name, await CHECKS[name](rpc.JobServiceStub(channel), mesh)
            except grpc.aio.AioRpcError as error:
                return name, _text(error)

    short = [name for name in CHECKS if name != "a_minute"]
    found = [await one(name) for name in short]
    return dict([*found, await one("a_minute")])
