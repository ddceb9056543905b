"""A call that a client library or a proxy repeats automatically never sends a second job."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING

import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from jobgateway.v1 import job_service_pb2 as pb

from tests.support.gateways import SEND, TOKEN, running
from tests.support.raw import raw_call
from tests.support.upstream import answer

if TYPE_CHECKING:
    from gateway.server.gateway import Gateway
    from tests.support.raw import RawResponse
    from tests.support.upstream import ScriptedUpstream

TEST_SECONDS = 10.0
WITH_ID = pb.SendJobRequest(workspace_id="1", entity_id=7, request_id="an-id")
DONE = answer(200, {"uid": 42, "status": "success"})

RETRIES = [
    [(b"grpc-previous-rpc-attempts", b"1")],
    [(b"grpc-previous-rpc-attempts", b"4")],
    [(b"x-envoy-attempt-count", b"2")],
    [(b"x-envoy-attempt-count", b"17")],
    [(b"x-envoy-attempt-count", b"1"), (b"x-envoy-attempt-count", b"2")],
    [(b"x-envoy-attempt-count", b"1"), (b"grpc-previous-rpc-attempts", b"1")],
    [(b"x-envoy-attempt-count", b"02")],
    # Joined by a proxy.
    [(b"x-envoy-attempt-count", b"1, 2")],
    [(b"x-envoy-attempt-count", b"two,2")],
    [(b"x-envoy-attempt-count", b"9" * 5_000)],
]
FIRST_ATTEMPTS = [
    [],
    [(b"grpc-previous-rpc-attempts", b"0")],
    [(b"x-envoy-attempt-count", b"1")],
    [(b"x-envoy-attempt-count", b"0")],
    # gRPC itself rejects a call if its own header is not a number.
    *([(b"x-envoy-attempt-count", value)] for value in (b"", b"two", b"-2", b"2.0", b"1, 1", b"0" * 5_000, b"\xff")),
]


async def call(gateway: Gateway, method: str, message: bytes, metadata: list[tuple[bytes, bytes]]) -> RawResponse:
    path = f"/jobgateway.v1.JobService/{method}"
    bearer = (b"authorization", b"Bearer " + TOKEN.encode())
    async with (
        asyncio.timeout(TEST_SECONDS),
        raw_call(gateway.address, path, message, [bearer, *metadata]) as running_call,
    ):
        return await running_call.end()


def encoded(method: str, request: pb.SendJobRequest) -> bytes:
    return (pb.RunJobRequest(request=request) if method == "RunJob" else request).SerializeToString()


@pytest.mark.parametrize("metadata", RETRIES, ids=repr)
@pytest.mark.parametrize("method", ["SendJob", "RunJob"])
async def test_an_automatic_retry_without_a_request_id_is_not_posted(
    upstream: ScriptedUpstream, gateway: Gateway, method: str, metadata: list[tuple[bytes, bytes]]
) -> None:
    upstream.script.append(DONE)
    got = await call(gateway, method, encoded(method, SEND), metadata)
    assert got.code == StatusCode.UNKNOWN.value[0]
    assert "request_id" in got.headers["grpc-message"]
    assert metadata[-1][0].decode() in got.headers["grpc-message"]
    assert upstream.seen == []


@pytest.mark.parametrize("metadata", RETRIES, ids=repr)
@pytest.mark.parametrize("method", ["SendJob", "RunJob"])
async def test_with_a_request_id_it_continues(
    upstream: ScriptedUpstream, gateway: Gateway, method: str, metadata: list[tuple[bytes, bytes]]
) -> None:
    upstream.script.append(DONE)
    assert (await call(gateway, method, encoded(method, WITH_ID), metadata)).code == 0
    assert len(upstream.requests("POST")) == 1


@pytest.mark.parametrize("metadata", FIRST_ATTEMPTS, ids=lambda metadata: repr(metadata)[:50])
async def test_first_attempts_and_garbage_are_posted(
    upstream: ScriptedUpstream, gateway: Gateway, metadata: list[tuple[bytes, bytes]]
) -> None:
    upstream.script.append(DONE)
    assert (await call(gateway, "SendJob", encoded("SendJob", SEND), metadata)).code == 0
    assert len(upstream.requests("POST")) == 1


@pytest.mark.parametrize("method", ["GetJob", "WaitJob", "CancelJob", "WatchJob"])
async def test_other_calls_may_be_repeated(upstream: ScriptedUpstream, gateway: Gateway, method: str) -> None:
    upstream.script.append(DONE)
    request = getattr(pb, f"{method}Request")(uid=42)
    assert (await call(gateway, method, request.SerializeToString(), RETRIES[0])).code == 0


async def test_the_refusal_has_the_reason_of_an_unknown_outcome(upstream: ScriptedUpstream) -> None:
    async with running(upstream.url) as gateway:
        got = await call(gateway, "SendJob", encoded("SendJob", SEND), RETRIES[2])
    details = got.headers["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(base64.b64decode(details + "=" * (-len(details) % 4)))
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    assert info.reason == "SUBMIT_OUTCOME_UNKNOWN"
    assert len(status.details) == 1, "no RetryInfo: nothing may repeat it once more"
    assert "grpc-retry-pushback-ms" not in got.headers
