"""The early response headers of a submission, which keep proxies and libraries from repeating it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hyperframe.frame import HeadersFrame
from jobgateway.v1 import job_service_pb2 as pb

from tests.support.frames import Peer, header_block, headers, message, peer
from tests.support.gateways import TOKEN, running
from tests.support.upstream import JOBS, Connection, answer

if TYPE_CHECKING:
    from gateway.server.gateway import Gateway
    from tests.support.upstream import ScriptedUpstream

PATIENT = 20.0
JOB = pb.SendJobRequest(workspace_id="1", entity_id=7, method_name="succeed")
MESSAGES = {"SendJob": JOB.SerializeToString(), "RunJob": pb.RunJobRequest(request=JOB).SerializeToString()}
INVALID = {
    "SendJob": pb.SendJobRequest(workspace_id="1").SerializeToString(),
    "RunJob": pb.RunJobRequest(request=pb.SendJobRequest(workspace_id="1")).SerializeToString(),
}


async def begin(raw: Peer, method: str, data: bytes, stream: int = 1) -> None:
    block = header_block(f"/jobgateway.v1.JobService/{method}", [("authorization", f"Bearer {TOKEN}")])
    await raw.send(headers(stream, block) + message(stream, data))


async def first_headers(raw: Peer) -> HeadersFrame:
    async with asyncio.timeout(PATIENT):
        frame = await raw.until(HeadersFrame)
    assert isinstance(frame, HeadersFrame)
    return frame


@pytest.mark.parametrize("method", MESSAGES)
async def test_headers_come_before_the_upstream_responds(
    gateway: Gateway, upstream: ScriptedUpstream, method: str
) -> None:
    answers = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await answers.wait()
        await connection.send(answer(200, {"uid": 42, "status": "success"}))

    upstream.on("POST", JOBS, slow)
    async with peer(gateway.address) as raw:
        await begin(raw, method, MESSAGES[method])
        assert "END_STREAM" not in (await first_headers(raw)).flags
        async with asyncio.timeout(PATIENT):
            await upstream.wait_for(1, "POST")
            answers.set()
            assert (await raw.ending(1))["grpc-status"] == "0"


@pytest.mark.parametrize("method", MESSAGES)
async def test_a_refused_submission_has_headers_too(gateway: Gateway, upstream: ScriptedUpstream, method: str) -> None:
    upstream.on("POST", JOBS, answer(403, {"detail": "No."}))
    async with peer(gateway.address) as raw:
        await begin(raw, method, MESSAGES[method])
        assert "END_STREAM" not in (await first_headers(raw)).flags
        async with asyncio.timeout(PATIENT):
            assert (await raw.ending(1))["grpc-status"] == "7"


@pytest.mark.parametrize("method", INVALID)
async def test_an_invalid_request_gets_trailers_only(gateway: Gateway, upstream: ScriptedUpstream, method: str) -> None:
    async with peer(gateway.address) as raw:
        await begin(raw, method, INVALID[method])
        assert "END_STREAM" in (await first_headers(raw)).flags
    assert upstream.seen == []


@pytest.mark.parametrize("method", MESSAGES)
async def test_a_submission_over_the_limit_gets_trailers_only(upstream: ScriptedUpstream, method: str) -> None:
    upstream.on("POST", JOBS, answer(200, {"uid": 42, "status": "success"}))
    async with running(upstream.url, submissions_per_second=0.1) as limited, peer(limited.address) as raw:
        await begin(raw, method, MESSAGES[method])
        async with asyncio.timeout(PATIENT):
            await raw.ending(1)
        await begin(raw, method, MESSAGES[method], stream=3)
        assert "END_STREAM" in (await first_headers(raw)).flags
    assert len(upstream.requests("POST")) == 1
