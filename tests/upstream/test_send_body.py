"""The POST of a job: its body and its path."""

import json
import time
from typing import Any
from urllib.parse import unquote

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from jobgateway.v1 import job_service_pb2 as pb

from gateway.auth.credential import Credential
from gateway.models import SendJob
from gateway.rpc.codec.requests import read_send_job
from gateway.telemetry.jobs import ObservedJobs
from gateway.telemetry.metrics import Metrics
from gateway.threads import WorkerPool
from gateway.upstream import RequestContext, RestClient
from gateway.upstream.client import send_body
from tests.support.clock import SteppedClock
from tests.support.gateways import TOKEN
from tests.support.transports import PatientTransport, upstream_health
from tests.support.upstream import ScriptedUpstream, answer


def _body(request: pb.SendJobRequest) -> Any:
    return json.loads(send_body(read_send_job(request)))


def _request(**fields: Any) -> pb.SendJobRequest:
    return pb.SendJobRequest(workspace_id="1", entity_id=7, **fields)


def test_unset_fields_are_not_sent() -> None:
    assert send_body(SendJob("1", 7)) == b"{}"
    assert _body(_request()) == {}


def test_all_fields_except_path_and_gateway_fields_are_sent() -> None:
    request = _request(
        poll_result=False,
        method_name="m",
        method_type="t",
        editor_session="12345678-1234-1234-1234-123456789ABC",
        events=["a", ""],
        timeout=Duration(seconds=30),
        method="old",
        request_id="id",
        content_format=pb.CONTENT_FORMAT_JSON,
    )
    request.params.update({"a": 1, "b": None})
    request.arguments.SetInParent()
    assert _body(request) == {
        "poll_result": False,
        "method_name": "m",
        "method_type": "t",
        "editor_session": "12345678-1234-1234-1234-123456789ABC",
        "params": {"a": 1, "b": None},
        "events": ["a", ""],
        "timeout": 30,
        "arguments": {},
        "method": "old",
    }


def test_integers_of_a_struct_arrive_as_integers() -> None:
    request = _request()
    request.params.update({"numbers": [9007199254740992, -3, 0.5]})
    assert send_body(read_send_job(request)) == b'{"params":{"numbers":[9007199254740992,-3,0.5]}}'


@pytest.mark.parametrize(
    "raw",
    [
        b"null",
        b"{}",
        b' { "a" : 1.0 }\n',
        b"9007199254740993",
        b"1e999",
        b"9" * 5_000,
        b'"\\ud800 \\u0000"',
        '"é"'.encode(),
        b'"\\"},{\\""',
        b"[" * 500 + b"]" * 500,
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_params_json_arrives_byte_for_byte(raw: bytes) -> None:
    body = send_body(read_send_job(_request(params_json=raw, method_name="m")))
    assert body == b'{"method_name":"m","params":%b}' % raw


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(text, st.lists(text), text)
def test_any_text_arrives_as_it_is(name: str, events: list[str], method: str) -> None:
    sent = _body(_request(method_name=name, events=events, method=method))
    assert (sent["method_name"], sent.get("events", []), sent["method"]) == (name, events, method)


WORKSPACES = [
    "1",
    "a b",
    " ",
    "...",
    ".a",
    "a..b",
    "é",
    "🙂",
    "a+b",
    "a:b",
    "a@b&c=d,e",
    "~*'()!$",
    "\uff0f",
    "\u2025",
    "a\u202eb",
    "\u200b",
]


async def test_any_workspace_is_one_segment_of_the_path(
    upstream: ScriptedUpstream,
) -> None:
    transport = PatientTransport()
    client = RestClient(
        upstream.url,
        submissions=transport,
        reads=transport,
        now=time.time,
        observer=ObservedJobs(Metrics()),
        workers=WorkerPool("responses", 1),
        health=upstream_health(SteppedClock()),
    )
    upstream.script.append(answer(201, {"uid": 42}))
    for workspace in WORKSPACES:
        job = read_send_job(pb.SendJobRequest(workspace_id=workspace, entity_id=7))
        await client.send(job, RequestContext(Credential(TOKEN), {}))
    await client.aclose()
    segments = [seen.path.split("/") for seen in upstream.requests("POST")]
    assert [[*path[:3], unquote(path[3]), *path[4:]] for path in segments] == [
        ["", "api", "workspaces", workspace, "entities", "7", "jobs", ""] for workspace in WORKSPACES
    ]
