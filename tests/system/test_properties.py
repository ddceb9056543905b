"""Any request with any metadata, over a real socket to a gateway process, ends with OK or a documented error.

By default the examples are the same in each run; `make fuzz` generates new ones.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from grpc import StatusCode
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jobgateway.v1 import job_service_pb2 as pb

from tests.support.error_table import check_error
from tests.support.frames import header_block, headers, message, peer
from tests.support.gateways import SEND, TOKEN
from tests.support.paths import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message
    from hypothesis.strategies import SearchStrategy

pytestmark = pytest.mark.slow

CALL_SECONDS = 20.0
RANDOM = os.environ.get("JOBGATEWAY_PROPERTIES") == "random"
AUTHORIZED = [(b"authorization", b"Bearer " + TOKEN.encode())]
CODES = {code.value[0]: code for code in StatusCode}

many = settings(
    deadline=None,
    max_examples=100 if RANDOM else 50,
    derandomize=not RANDOM,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Upstream(BaseHTTPRequestHandler):
    """Accept every job, and report each as done, so that no call has to wait."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        uid = int(self.path.rstrip("/").rpartition("/")[2])
        self._respond(200, {"uid": uid, "status": "success", "result": {"a": [1, "ä", None]}})

    def do_POST(self) -> None:
        json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._respond(201, {"uid": 43})

    def do_DELETE(self) -> None:
        self._respond(200, {})

    def _respond(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        return


@dataclass
class Process:
    """A gateway process."""

    address: str
    child: subprocess.Popen[str]

    def alive(self) -> bool:
        return self.child.poll() is None


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """Run one gateway for all examples, in front of an upstream that accepts everything."""
    upstream = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBGATEWAY_")}
    environment |= {
        "JOBGATEWAY_UPSTREAM_URL": f"http://127.0.0.1:{upstream.server_port}",
        "JOBGATEWAY_LISTEN": "127.0.0.1:0",
        "JOBGATEWAY_ADMIN_LISTEN": "127.0.0.1:0",
        # One caller makes all calls as fast as possible.
        "JOBGATEWAY_CALLS_PER_SECOND": "100000",
        "JOBGATEWAY_POLLS_PER_SECOND": "100000",
        "JOBGATEWAY_SUBMISSIONS_PER_SECOND": "100000",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "gateway", "serve"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        log = child.stderr
        defects: list[str] = []
        address = json.loads(log.readline())["address"]

        def read() -> None:
            defects.extend(line for line in log if "GATEWAY_DEFECT" in line or TOKEN in line)

        reading = threading.Thread(target=read)
        reading.start()
        yield Process(address, child)
        child.terminate()
        reading.join()
    upstream.shutdown()
    upstream.server_close()
    assert defects == []


async def ask(address: str, method: str, data: bytes, metadata: list[tuple[bytes, bytes]]) -> dict[str, str]:
    async with asyncio.timeout(CALL_SECONDS), peer(address) as raw:
        block = header_block(f"/jobgateway.v1.JobService/{method}", metadata)
        await raw.send(headers(1, block) + message(1, data))
        return await raw.ending(1)


def outcome(process: Process, method: str, data: bytes, metadata: list[tuple[bytes, bytes]]) -> str:
    """Return OK, or the reason of the call's error, which must be in the table."""
    ended = asyncio.run(ask(process.address, method, data, metadata))
    assert process.alive()
    code = CODES[int(ended["grpc-status"])]
    if code is StatusCode.OK:
        return "OK"
    text = ended["grpc-status-details-bin"]
    details = base64.b64decode(text + "=" * (-len(text) % 4))
    return check_error(code, unquote(ended.get("grpc-message", ""), errors="strict"), details)


# Requests

texts = st.text(max_size=40)
uids = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 50))
formats = st.one_of(st.sampled_from(pb.ContentFormat.values()), st.integers(-(2**31), 2**31 - 1))
durations = st.builds(
    Duration,
    seconds=st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-1, 90_000)),
    nanos=st.one_of(st.just(0), st.integers(-(2**31), 2**31 - 1)),
)
scalars = st.one_of(
    st.builds(Value),
    st.builds(Value, null_value=st.just(0)),
    st.builds(Value, bool_value=st.booleans()),
    st.builds(Value, number_value=st.floats()),
    st.builds(Value, string_value=texts),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.builds(Value, list_value=st.builds(ListValue, values=st.lists(inner, max_size=3))),
        st.builds(Value, struct_value=st.builds(Struct, fields=st.dictionaries(texts, inner, max_size=3))),
    ),
    max_leaves=8,
)
structs = st.builds(Struct, fields=st.dictionaries(texts, values, max_size=4))
json_texts = st.one_of(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), texts),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=60),
)


def maybe(strategy: SearchStrategy[object]) -> SearchStrategy[object]:
    return st.one_of(st.none(), strategy)


sends = st.builds(
    pb.SendJobRequest,
    workspace_id=st.one_of(texts, st.sampled_from(["1", "..", "%2e%2e", "a/b"])),
    entity_id=uids,
    poll_result=maybe(st.booleans()),
    method_name=maybe(texts),
    method_type=maybe(texts),
    editor_session=maybe(st.one_of(texts, st.uuids().map(str))),
    params=st.none(),
    events=st.lists(texts, max_size=3),
    timeout=maybe(durations),
    request_id=st.one_of(st.just(""), texts, st.text(alphabet="abc", min_size=1, max_size=130)),
    content_format=formats,
    method=maybe(texts),
)


@st.composite
def submissions(draw: st.DrawFn) -> pb.SendJobRequest:
    request = draw(sends)
    which = draw(st.sampled_from(["params", "params_json", "arguments", "none"]))
    if which == "params":
        request.params.CopyFrom(draw(structs))
    elif which == "params_json":
        request.params_json = draw(json_texts)
    elif which == "arguments":
        request.arguments.CopyFrom(draw(structs))
    return request


RESUME_TOKENS = ["", "x", "AQAAAAAAAAAq", "A" * 513]
REQUESTS: dict[str, SearchStrategy[Message]] = {
    "SendJob": submissions(),
    "GetJob": st.builds(pb.GetJobRequest, uid=uids, content_format=formats),
    "WatchJob": st.builds(
        pb.WatchJobRequest,
        uid=uids,
        content_format=formats,
        heartbeat_interval=maybe(durations),
        resume_token=st.one_of(st.sampled_from(RESUME_TOKENS), texts),
    ),
    "WaitJob": st.builds(pb.WaitJobRequest, uid=uids, timeout=maybe(durations), content_format=formats),
    "RunJob": st.builds(
        pb.RunJobRequest,
        request=maybe(submissions()),
        heartbeat_interval=maybe(durations),
        cancel_on_disconnect=st.booleans(),
    ),
    "CancelJob": st.builds(pb.CancelJobRequest, uid=uids),
}
METHODS = list(REQUESTS)
# Unknown fields of every wire type.
UNKNOWN = [b"", bytes.fromhex("f80701"), bytes.fromhex("f90700112233445566 77"), b"\xfa\x07\x03abc", b"\xfd\x07abcd"]
ENDS = {"OK", "REQUEST_INVALID", "REQUEST_ID_REUSED"}
# A wait of some nanoseconds is over before the first state.
ENDS_OF = {**dict.fromkeys(METHODS, ENDS), "WaitJob": {*ENDS, "NO_STATE_YET"}}


@pytest.mark.parametrize("method", METHODS)
def test_any_message_is_served_or_rejected(process: Process, method: str) -> None:
    @many
    @given(request=REQUESTS[method], unknown=st.sampled_from(UNKNOWN))
    def check(request: Message, unknown: bytes) -> None:
        assert outcome(process, method, request.SerializeToString() + unknown, AUTHORIZED) in ENDS_OF[method]

    check()


@pytest.mark.parametrize("method", METHODS)
def test_any_bytes_are_served_or_rejected(process: Process, method: str) -> None:
    @many
    @given(data=st.binary(max_size=200))
    @example(data=b"\xff" * 10)
    @example(data=b"\x0a\xff\xff\xff\xff\x0f")
    @example(data=b"\x0a\x02\xc3\x28")
    @example(data=b"\x0b" * 200)
    def check(data: bytes) -> None:
        assert outcome(process, method, data, AUTHORIZED) in ENDS_OF[method]

    check()


# Metadata

NAMES = [b"x-request-id", b"traceparent", b"authorization", b"tracestate", b"user-agent", b"x-forwarded-for", b"cookie"]
names = st.one_of(
    st.sampled_from(NAMES),
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=20)
    # HTTP/2 and gRPC reserve these names.
    .filter(lambda name: not name.startswith(("grpc-", "content-", "te")) and not name.endswith("-bin"))
    .map(str.encode),
)
metadata = st.lists(st.tuples(names, st.binary(max_size=60)), max_size=6)


@pytest.mark.parametrize("authorized", [True, False], ids=["authorized", "not"])
@pytest.mark.parametrize("method", METHODS)
def test_any_metadata_is_accepted_or_rejected(process: Process, method: str, authorized: bool) -> None:
    request = USUAL_REQUESTS[method].SerializeToString()

    @many
    @given(more=metadata)
    @example(more=[(b"x-request-id", b"a\r\nb: c")])
    @example(more=[(b"authorization", b"Bearer \xff")])
    def check(more: list[tuple[bytes, bytes]]) -> None:
        got = outcome(process, method, request, [*(AUTHORIZED if authorized else []), *more])
        assert got in {"OK", "CREDENTIAL_INVALID", "REQUEST_INVALID"}

    check()


USUAL_REQUESTS: dict[str, Message] = {
    "SendJob": SEND,
    "GetJob": pb.GetJobRequest(uid=42),
    "WatchJob": pb.WatchJobRequest(uid=42),
    "WaitJob": pb.WaitJobRequest(uid=42),
    "RunJob": pb.RunJobRequest(request=SEND),
    "CancelJob": pb.CancelJobRequest(uid=42),
}
