"""Metadata that only a raw HTTP/2 client can send, because client libraries reject most of it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from jobgateway.v1 import job_service_pb2 as pb

from tests.support.raw import RawResponse, raw_call
from tests.support.upstream import RUNNING, answer

if TYPE_CHECKING:
    from gateway.server.gateway import Gateway
    from tests.support.upstream import ScriptedUpstream

TOKEN = b"vktrpat_0123456789"
AUTHORIZATION = (b"authorization", b"Bearer " + TOKEN)
GET_JOB = pb.GetJobRequest(uid=42).SerializeToString()
DONE = answer(200, {"uid": 42, "status": "success"})


async def ask(gateway: Gateway, method: str, message: bytes, *metadata: tuple[bytes, bytes]) -> RawResponse:
    async with raw_call(gateway.address, f"/jobgateway.v1.JobService/{method}", message, metadata) as call:
        return await call.end()


async def get_job(gateway: Gateway, *metadata: tuple[bytes, bytes]) -> RawResponse:
    return await ask(gateway, "GetJob", GET_JOB, *metadata)


def reason(got: RawResponse) -> str:
    padded = got.headers["grpc-status-details-bin"] + "=" * (-len(got.headers["grpc-status-details-bin"]) % 4)
    status = status_pb2.Status.FromString(base64.b64decode(padded))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([], id="none"),
        pytest.param([b""], id="empty"),
        pytest.param([b"Bearer"], id="no token"),
        pytest.param([b"Bearer "], id="an empty token"),
        pytest.param([b"Basic dXNlcjpwdw=="], id="Basic"),
        pytest.param([b"Token " + TOKEN], id="another scheme"),
        pytest.param([TOKEN], id="no scheme"),
        pytest.param([b"Bearer" + TOKEN], id="no space"),
        pytest.param([b"Bearer a b"], id="two tokens"),
        pytest.param([b"Bearer a, Bearer b"], id="a list"),
        pytest.param([b"Bearer a", b"Bearer b"], id="two values"),
        pytest.param([b"Bearer " + TOKEN, b"Bearer " + TOKEN], id="the same value twice"),
        pytest.param([b"Bearer a\rb"], id="CR"),
        pytest.param([b"Bearer a\nb"], id="LF"),
        pytest.param([b"Bearer a\r\nx-evil: 1"], id="a header of its own"),
        pytest.param([b"Bearer a\n"], id="LF at the end"),
        pytest.param([b"Bearer a\0b"], id="NUL"),
        pytest.param([b"Bearer\ta"], id="a tab"),
        pytest.param([b"Bearer a\x7f"], id="DEL"),
        pytest.param(["Bearer é".encode()], id="UTF-8"),
        pytest.param([b"Bearer \xff\xfe"], id="no UTF-8"),
        pytest.param([b"Bearer " + b"a" * 8193], id="too long"),
    ],
)
async def test_a_malformed_credential_never_reaches_the_upstream(
    gateway: Gateway, upstream: ScriptedUpstream, values: list[bytes]
) -> None:
    got = await get_job(gateway, *((b"authorization", value) for value in values))
    assert got.code == grpc.StatusCode.UNAUTHENTICATED.value[0]
    assert reason(got) == "CREDENTIAL_INVALID"
    assert upstream.seen == []


@pytest.mark.parametrize("name", [b"x-request-id", b"traceparent"])
@pytest.mark.parametrize(
    "values",
    [
        pytest.param([b""], id="empty"),
        pytest.param([b"a\rb"], id="CR"),
        pytest.param([b"a\nb"], id="LF"),
        pytest.param([b"a\r\nauthorization: Bearer other"], id="a header of its own"),
        pytest.param([b"a\n"], id="LF at the end"),
        pytest.param([b"a\0b"], id="NUL"),
        pytest.param([b"a\tb"], id="a tab"),
        pytest.param(["é".encode()], id="UTF-8"),
        pytest.param([b"\xff"], id="no UTF-8"),
        pytest.param([b"a" * 257], id="too long"),
    ],
)
async def test_a_header_value_that_is_not_safe_is_left_out(
    gateway: Gateway, upstream: ScriptedUpstream, name: bytes, values: list[bytes]
) -> None:
    upstream.script.append(RUNNING)
    got = await get_job(gateway, AUTHORIZATION, *((name, value) for value in values))
    assert got.code == 0
    (seen,) = upstream.seen
    assert name.decode() not in seen.headers
    assert seen.headers["authorization"] == f"Bearer {TOKEN.decode()}"


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([b"a", b"b"], id="two, as HAProxy's unique-id-header makes them"),
        pytest.param([b"a", b"a"], id="the same one twice"),
        pytest.param([b"", b"a"], id="an empty one first"),
        pytest.param([b"x" * 257, b"a", b"b"], id="a long one first"),
    ],
)
async def test_of_several_request_ids_the_first_valid_one_counts(
    gateway: Gateway, upstream: ScriptedUpstream, values: list[bytes]
) -> None:
    upstream.script.append(RUNNING)
    got = await get_job(gateway, AUTHORIZATION, *((b"x-request-id", value) for value in values))
    assert got.code == 0
    assert upstream.seen[0].headers["x-request-id"] == "a"


async def test_an_error_names_the_limit_of_a_token_but_not_the_token(gateway: Gateway) -> None:
    got = await get_job(gateway, (b"authorization", b"Bearer " + b"a" * 8193))
    assert "has 8,193 characters; it may have at most 8,192" in got.headers["grpc-message"]
    assert "aaa" not in got.headers["grpc-message"]


async def test_of_two_traces_one_passes_through(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    # grpc knows this header, and passes on only the last one.
    upstream.script.append(RUNNING)
    got = await get_job(gateway, AUTHORIZATION, (b"traceparent", b"a"), (b"traceparent", b"b"))
    assert got.code == 0
    assert upstream.seen[0].headers["traceparent"] == "b"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        pytest.param(b"Bearer " + TOKEN, "Bearer " + TOKEN.decode(), id="as usual"),
        pytest.param(b"bearer " + TOKEN, "Bearer " + TOKEN.decode(), id="lower case"),
        pytest.param(b"BEARER   " + TOKEN, "Bearer " + TOKEN.decode(), id="upper case, spaces"),
        pytest.param(
            b"Bearer !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "Bearer !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", id="marks"
        ),
        pytest.param(b"Bearer " + b"a" * 8192, "Bearer " + "a" * 8192, id="as long as may be"),
    ],
)
async def test_a_bearer_token_reaches_the_upstream_exactly(
    gateway: Gateway, upstream: ScriptedUpstream, value: bytes, sent: str
) -> None:
    upstream.script.append(RUNNING)
    got = await get_job(gateway, (b"authorization", value))
    assert got.code == 0
    assert [seen.headers["authorization"] for seen in upstream.seen] == [sent]


async def test_only_the_request_id_and_the_trace_are_passed_on(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.script.append(RUNNING)
    passed = {"x-request-id": 'a "b" ~!', "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    metadata = [(name.encode(), value.encode()) for name, value in passed.items()]
    got = await get_job(gateway, AUTHORIZATION, *metadata, (b"x-other", b"a"), (b"cookie", b"a=b"))
    assert got.code == 0
    (seen,) = upstream.seen
    assert {name: seen.headers[name] for name in passed} == passed
    assert {"x-other", "cookie"}.isdisjoint(seen.headers)


@pytest.mark.parametrize("timeout", [b"99999999H", b"99999999999999S", b"99999999999999n"])
async def test_a_huge_deadline_is_accepted(gateway: Gateway, upstream: ScriptedUpstream, timeout: bytes) -> None:
    upstream.script += [RUNNING, DONE]
    request = pb.WaitJobRequest(uid=42).SerializeToString()
    got = await ask(gateway, "WaitJob", request, AUTHORIZATION, (b"grpc-timeout", timeout))
    assert got.code == 0
    assert pb.Job.FromString(got.messages[0]).status == pb.JOB_STATUS_SUCCESS


@pytest.mark.parametrize("method", ["SendJob", "GetJob", "WatchJob", "WaitJob", "RunJob", "CancelJob"])
async def test_bytes_that_are_no_message_are_rejected_with_a_reason(
    gateway: Gateway, upstream: ScriptedUpstream, method: str
) -> None:
    got = await ask(gateway, method, b"\xff\xff\xff", AUTHORIZATION)
    assert got.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert reason(got) == "REQUEST_INVALID"
    assert upstream.seen == []
