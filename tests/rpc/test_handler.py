"""The handler factory, under real grpc.aio servers with methods that fail in every way."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog
from jobgateway.v1 import job_service_pb2 as pb

from gateway.clock import SystemClock
from gateway.errors import InternalError, RequestTooLarge
from gateway.limits.admission import Admission
from gateway.rpc.call import MAX_DEADLINE_SECONDS, Call
from gateway.rpc.handler import HandlerFactory
from gateway.rpc.tracing import NoopTracer
from gateway.telemetry.metrics import Metrics
from tests.support.admission import limits
from tests.support.gateways import BEARER, TOKEN, expect_error, reach_deadline, read_all
from tests.support.paths import ROOT
from tests.support.raw import raw_call
from tests.support.upstream import Connection, ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from jobgateway.v1 import job_service_pb2_grpc as rpc

    from gateway.server.gateway import Gateway

    Method = Callable[[Any, Call], Awaitable[Any]]

TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"
REQUEST = pb.GetJobRequest(uid=42)
PATIENT = 20.0


class Served:
    """A handler factory that serves one method, and a channel to it."""

    def __init__(
        self, handler_factory: HandlerFactory, admission: Admission, address: str, channel: grpc.aio.Channel
    ) -> None:
        self.handler_factory = handler_factory
        self.address = address
        self.admission = admission
        self._channel = channel

    def unary(self, timeout: float = PATIENT) -> Any:
        call: Any = self._channel.unary_unary("/s/m", request_serializer=pb.GetJobRequest.SerializeToString)
        return call(REQUEST, metadata=BEARER, timeout=timeout)

    def stream(self) -> Any:
        call: Any = self._channel.unary_stream("/s/m", request_serializer=pb.GetJobRequest.SerializeToString)
        return call(REQUEST, metadata=BEARER, timeout=PATIENT)

    async def idle(self) -> bool:
        return await self.admission.wait_idle(SystemClock().monotonic() + PATIENT)


@asynccontextmanager
async def served(method: Method, *, name: str = "GetJob", streaming: bool = False) -> AsyncIterator[Served]:
    admission = Admission(SystemClock(), limits())
    handler_factory = HandlerFactory(
        admission,
        SystemClock(),
        Metrics().methods("s", [(name, "server_stream" if streaming else "unary")]),
        NoopTracer(),
        None,
    )
    handle = handler_factory.handler(name, method, pb.GetJobRequest, watch=streaming)
    make = grpc.unary_stream_rpc_method_handler if streaming else grpc.unary_unary_rpc_method_handler
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": make(handle)}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    address = f"127.0.0.1:{port}"
    async with grpc.aio.insecure_channel(address) as channel:
        yield Served(handler_factory, admission, address, channel)
    await server.stop(None)


def the_line(logged: list[dict[str, Any]]) -> dict[str, Any]:
    (line,) = [each for each in logged if each["event"] == "call"]
    return line


# How calls end


async def test_the_response_is_sent_and_a_line_is_logged(logged: list[dict[str, Any]]) -> None:
    async def method(request: pb.GetJobRequest, call: Call) -> bytes:
        call.uid = request.uid
        return b"an answer"

    async with served(method) as server:
        assert await server.unary() == b"an answer"
        assert server.admission.in_flight == 0
    line = the_line(logged)
    assert line["method"] == "GetJob"
    assert line["code"] == "OK"
    assert line["uid"] == 42
    assert line["log_level"] == "info"
    assert 0 <= line["seconds"] < PATIENT


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_defect_ends_with_a_status_without_details(logged: list[dict[str, Any]], *, streaming: bool) -> None:
    async def method(_: Any, call: Call) -> bytes:
        if streaming:
            await call.send_headers()
            await call.write(b"an event")
        raise ZeroDivisionError(f"inner secrets, and Bearer {TOKEN}")

    async with served(method, streaming=streaming) as server:
        failure = await expect_error(read_all(server.stream()) if streaming else server.unary())
        assert server.admission.in_flight == 0
    assert failure.code is grpc.StatusCode.INTERNAL
    assert failure.reason == "GATEWAY_DEFECT"
    assert "secrets" not in str(failure.trailers) + failure.message
    assert "ZeroDivision" not in str(failure.trailers) + failure.message
    line = the_line(logged)
    assert line["log_level"] == "error"
    assert (line["code"], line["reason"]) == ("INTERNAL", "GATEWAY_DEFECT")
    assert "Traceback" in line["exception"]
    assert "ZeroDivisionError: inner secrets, and Bearer [redacted]" in line["exception"]


async def test_an_error_of_the_table_is_no_defect(logged: list[dict[str, Any]]) -> None:
    async def method(_: Any, __: Call) -> bytes:
        raise RequestTooLarge("it is too large") from ValueError("the cause")

    async with served(method) as server:
        failure = await expect_error(server.unary())
    assert failure.reason == "REQUEST_TOO_LARGE"
    line = the_line(logged)
    assert (line["log_level"], line["reason"], line["message"]) == ("info", "REQUEST_TOO_LARGE", "it is too large")
    assert "exception" not in line


async def _raise_cancelled(_: Any, __: Call) -> bytes:
    raise asyncio.CancelledError


async def _await_cancelled(_: Any, __: Call) -> bytes:
    task = asyncio.create_task(asyncio.sleep(PATIENT))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task
    return b""


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("method", [_raise_cancelled, _await_cancelled])
async def test_an_internal_cancellation_ends_the_call_with_a_status(method: Method, *, streaming: bool) -> None:
    async with served(method, streaming=streaming) as server:
        failure = await expect_error(read_all(server.stream()) if streaming else server.unary())
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "GATEWAY_DEFECT")


class Waiting:
    """A method that waits forever, and the error that ended it."""

    def __init__(self, *, streaming: bool) -> None:
        self.streaming = streaming
        self.began = asyncio.Event()
        self.ended_by: BaseException | None = None

    async def __call__(self, _: Any, call: Call) -> bytes:
        if self.streaming:
            await call.send_headers()
        self.began.set()
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            self.ended_by = error
            raise
        raise AssertionError


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_client_that_cancels_frees_its_slot(logged: list[dict[str, Any]], *, streaming: bool) -> None:
    method = Waiting(streaming=streaming)
    async with served(method, streaming=streaming) as server:
        call = server.stream() if streaming else server.unary()
        task = asyncio.ensure_future(read_all(call) if streaming else call)
        await method.began.wait()
        assert server.admission.in_flight == 1
        call.cancel()
        assert await server.idle()
        await asyncio.wait([task])
    assert isinstance(method.ended_by, asyncio.CancelledError)
    line = the_line(logged)
    assert (line["code"], line["log_level"]) == ("CANCELLED", "info")


async def test_a_deadline_frees_the_slot_of_its_call() -> None:
    method = Waiting(streaming=False)
    async with served(method) as server:
        await reach_deadline(lambda seconds: server.unary(timeout=seconds), method.began.is_set)
        assert await server.idle()
    assert isinstance(method.ended_by, asyncio.CancelledError)


@pytest.mark.parametrize(
    ("timeout", "remaining"),
    [
        pytest.param(b"100S", 100.0, id="as it is"),
        pytest.param(b"99999999H", MAX_DEADLINE_SECONDS, id="clamped"),
        # grpc ignores a deadline with this many digits.
        pytest.param(b"99999999999999S", None, id="none"),
    ],
)
async def test_the_remaining_time_of_a_deadline_is_limited(timeout: bytes, remaining: float | None) -> None:
    told: list[float | None] = []

    async def method(_: Any, call: Call) -> bytes:
        told.append(call.remaining())
        return b""

    metadata = [*((name.encode(), value.encode()) for name, value in BEARER), (b"grpc-timeout", timeout)]
    message = REQUEST.SerializeToString()
    async with served(method) as server, raw_call(server.address, "/s/m", message, metadata) as call:
        await call.end()
    assert told == [remaining if remaining is None else pytest.approx(remaining, abs=PATIENT)]


async def test_writing_to_a_client_that_vanished_is_a_cancellation(logged: list[dict[str, Any]]) -> None:
    ended_by: list[BaseException] = []

    async def method(_: Any, call: Call) -> None:
        try:
            while True:
                await call.write(bytes(10_000))
        except BaseException as error:
            ended_by.append(error)
            raise

    async with served(method, streaming=True) as server:
        for _ in range(20):
            # The call is left when its first event has arrived.
            stream = server.stream()
            await stream.read()
            stream.cancel()
            assert await server.idle()
    assert {type(error) for error in ended_by} == {asyncio.CancelledError}
    assert len(ended_by) == 20
    assert {line["code"] for line in logged} == {"CANCELLED"}


async def test_a_client_that_vanishes_in_a_write_is_a_cancellation(logged: list[dict[str, Any]]) -> None:
    ended_by: list[BaseException] = []
    began = asyncio.Event()

    async def method(_: Any, call: Call) -> None:
        try:
            while True:
                # More than the flow control window: the write waits, and grpc.aio may end it with its own exception.
                asyncio.get_running_loop().call_soon(began.set)
                await call.write(bytes(100_000))
        except BaseException as error:
            ended_by.append(error)
            raise

    metadata = [(name.encode(), value.encode()) for name, value in BEARER]
    async with served(method, streaming=True) as server:
        for _ in range(30):
            began.clear()
            async with raw_call(server.address, "/s/m", REQUEST.SerializeToString(), metadata) as call:
                await began.wait()
                call.vanish()
            assert await server.idle()
    assert len(ended_by) == 30
    assert {type(error) for error in ended_by} == {asyncio.CancelledError}
    assert {line["code"] for line in logged} == {"CANCELLED"}


# Calls that the server ends


@pytest.mark.parametrize(
    ("name", "streaming", "uid", "code", "reason"),
    [
        ("GetJob", False, None, grpc.StatusCode.UNAVAILABLE, "DRAINING"),
        ("CancelJob", False, 42, grpc.StatusCode.UNAVAILABLE, "DRAINING"),
        ("WatchJob", True, 42, grpc.StatusCode.UNAVAILABLE, "DRAINING"),
        ("RunJob", True, 42, grpc.StatusCode.UNAVAILABLE, "DRAINING"),
        ("RunJob", True, None, grpc.StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN"),
        ("SendJob", False, None, grpc.StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN"),
        ("SendJob", False, 42, grpc.StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN"),
    ],
)
async def test_a_call_that_is_ended_here_says_if_a_retry_is_safe(
    name: str, streaming: bool, uid: int | None, code: grpc.StatusCode, reason: str
) -> None:
    waiting = Waiting(streaming=streaming)

    async def method(request: Any, call: Call) -> bytes:
        call.uid = uid
        return await waiting(request, call)

    async with served(method, name=name, streaming=streaming) as server:
        call = server.stream() if streaming else server.unary()
        task = asyncio.ensure_future(expect_error(read_all(call) if streaming else call))
        await waiting.began.wait()
        server.handler_factory.end_calls()
        failure = await task
        assert server.admission.in_flight == 0
    assert (failure.code, failure.reason) == (code, reason)
    assert failure.metadata.get("uid") == (None if uid is None else str(uid))
    assert (failure.retry is not None) == (reason == "DRAINING")


async def test_a_stream_that_waits_for_a_slow_consumer_ends_too() -> None:
    written = asyncio.Event()

    async def method(_: Any, call: Call) -> None:
        asyncio.get_running_loop().call_later(0.2, written.set)
        while True:
            await call.write(bytes(1_000_000))

    async with served(method, streaming=True) as server:
        stream = server.stream()
        await written.wait()
        server.handler_factory.end_calls()
        failure = await expect_error(read_all(stream))
    assert failure.reason == "DRAINING"


async def test_a_stream_that_has_sent_its_end_ends_with_ok() -> None:
    async def method(_: Any, call: Call) -> None:
        await call.send_headers()
        # Runs during the write of the last event.
        asyncio.get_running_loop().call_soon(call.end)
        await call.write(b"the end", last=True)
        await asyncio.Event().wait()

    async with served(method, streaming=True) as server:
        assert await read_all(server.stream()) == [b"the end"]


async def test_a_stream_that_is_just_beginning_ends_too() -> None:
    async def method(_: Any, call: Call) -> None:
        # Runs while the initial metadata is sent.
        asyncio.get_running_loop().call_soon(call.end)
        await call.send_headers()
        await asyncio.Event().wait()

    async with served(method, streaming=True) as server:
        failure = await expect_error(read_all(server.stream()))
    assert failure.reason == "DRAINING"


# The log


async def test_a_line_has_the_request_id_and_the_trace(
    jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: list[dict[str, Any]]
) -> None:
    upstream.script.append(answer(200, {"uid": 42, "status": "running"}))
    await jobs.GetJob(REQUEST, metadata=(*BEARER, ("x-request-id", "id-1"), ("traceparent", TRACEPARENT)))
    line = the_line(logged)
    assert (line["x-request-id"], line["trace_id"]) == ("id-1", "a" * 32)
    assert TRACEPARENT not in line.values()


async def test_a_call_without_a_request_id_gets_one_for_the_log_only(
    jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: list[dict[str, Any]]
) -> None:
    upstream.script.append(answer(200, {"uid": 42, "status": "running"}))
    for _ in range(2):
        await jobs.GetJob(REQUEST, metadata=BEARER)
    one, other = (line["x-request-id"] for line in logged)
    assert len(one) == len(other) == 16
    assert one != other
    assert not any("x-request-id" in request.headers for request in upstream.seen)
    assert not any("trace_id" in line for line in logged)


async def test_the_end_of_a_job_is_logged_with_the_ids_of_its_call(
    gateway: Gateway, jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: list[dict[str, Any]]
) -> None:
    done = {"uid": 42, "status": "error", "error": {"message": "a text of the app"}, "completed_at": 1}
    upstream.script += [answer(200, {"uid": 42, "status": "running"}), answer(503, {}), answer(200, done)]
    metadata = (*BEARER, ("x-request-id", "id-1"), ("traceparent", TRACEPARENT))
    watches = [jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=metadata) for _ in range(2)]
    await asyncio.gather(*(read_all(watch) for watch in watches))
    await gateway.wait_idle()
    (line,) = [line for line in logged if line["event"] == "job.ended"]
    assert 0 <= line.pop("seconds") < PATIENT
    assert line == {
        "event": "job.ended",
        "log_level": "info",
        "uid": 42,
        "status": "ERROR",
        "polls": 3,
        "x-request-id": "id-1",
        "trace_id": "a" * 32,
    }
    assert "a text of the app" not in json.dumps(logged, default=repr)


async def test_upstream_text_is_for_the_client_and_not_for_the_log(
    jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: list[dict[str, Any]]
) -> None:
    upstream.script.append(answer(400, {"field": ["a text of the upstream"]}))
    failure = await expect_error(jobs.GetJob(REQUEST, metadata=BEARER))
    assert "a text of the upstream" in failure.message
    line = the_line(logged)
    assert (line["reason"], line["http_status"]) == ("UPSTREAM_BAD_REQUEST", 400)
    assert "a text of the upstream" not in json.dumps(logged, default=repr)


async def test_a_call_without_a_credential_is_logged_with_its_id(
    jobs: rpc.JobServiceAsyncStub, logged: list[dict[str, Any]]
) -> None:
    await expect_error(jobs.GetJob(REQUEST, metadata=(("x-request-id", "id-1"),)))
    line = the_line(logged)
    assert (line["x-request-id"], line["reason"]) == ("id-1", "CREDENTIAL_INVALID")


ECHO = f"you sent Authorization: Bearer {TOKEN}"
ECHOES = {
    "a sentence": answer(500, {"detail": ECHO}),
    "a validation error": answer(400, {TOKEN: [ECHO], "field": {TOKEN: [ECHO]}}),
    "not permitted": answer(403, {"detail": ECHO}),
    "an error page": answer(502, raw=f"<html>{ECHO}</html>".encode()),
    "no JSON": answer(200, raw=ECHO.encode()),
    "JSON that is no job": answer(200, {"uid": TOKEN, "status": ECHO}),
    "no HTTP": ECHO.encode() + b"\r\n\r\n",
    "a bad header": f"HTTP/1.1 200 OK\r\n{ECHO}\x01: 1\r\n\r\n".encode(),
    "a bad status line": f"HTTP/1.1 {ECHO}\r\n\r\n".encode(),
    "a bad length": f"HTTP/1.1 200 OK\r\nContent-Length: {TOKEN}\r\n\r\n".encode(),
    "a redirect": answer(302, {}, headers={"Location": f"http://127.0.0.1/?{ECHO}"}),
}


@pytest.mark.parametrize("reply", ECHOES.values(), ids=ECHOES)
async def test_an_echoed_token_is_in_no_log_and_no_status(
    jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: list[dict[str, Any]], reply: bytes
) -> None:
    upstream.script.append(reply)
    request = pb.SendJobRequest(workspace_id="1", entity_id=7)
    shown = []
    for call in (
        jobs.GetJob(REQUEST, metadata=BEARER),
        jobs.SendJob(request, metadata=BEARER),
        jobs.CancelJob(pb.CancelJobRequest(uid=42), metadata=BEARER),
        read_all(jobs.RunJob(pb.RunJobRequest(request=request), metadata=BEARER)),
    ):
        try:
            await call
        except grpc.aio.AioRpcError as error:
            shown.append(f"{error.details()} {dict(error.trailing_metadata() or ())}")
    assert len([line for line in logged if line["event"] == "call"]) == 4
    assert shown
    assert TOKEN not in json.dumps(logged, default=repr) + "".join(shown)


async def test_a_call_that_goes_well_or_is_cancelled_logs_no_token(
    gateway: Gateway, jobs: rpc.JobServiceAsyncStub, upstream: ScriptedUpstream, logged: list[dict[str, Any]]
) -> None:
    async def hang(connection: Connection) -> None:
        await connection.gone()

    upstream.script += [answer(200, {"uid": 42, "status": "running", "message": ECHO}), hang]
    await jobs.GetJob(REQUEST, metadata=BEARER)
    call = jobs.GetJob(REQUEST, metadata=BEARER)
    await upstream.wait_for(2)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await gateway.stop(grace=PATIENT)
    assert [line["code"] for line in logged if line["event"] == "call"] == ["OK", "CANCELLED"]
    assert TOKEN not in json.dumps(logged, default=repr)


async def test_an_internal_error_is_a_defect_that_is_logged() -> None:
    async def method(_: Any, __: Call) -> bytes:
        raise InternalError("a part that should not fail")

    with structlog.testing.capture_logs() as logged:
        async with served(method) as server:
            failure = await expect_error(server.unary())
    assert failure.reason == "GATEWAY_DEFECT"
    assert "a part that should not fail" in logged[0]["exception"]


def test_the_documentation_lists_each_event_of_the_log() -> None:
    root = ROOT
    sources = [path for path in (root / "gateway").rglob("*.py") if not {"simulator", "cli"} & set(path.parts)]
    written = {
        event
        for path in sources
        for event in re.findall(
            r'(?:\b(?:_log\.(?:debug|info|warning|error)|write)\(\s*|\{"event": )"([^"]+)"', path.read_text()
        )
    }
    documented = re.findall(
        r"^\| `([^`<]+)` \| (?:debug|info|warning|error)", (root / "docs/reference/logs.md").read_text(), re.MULTILINE
    )
    assert "call" in written
    assert sorted(documented) == sorted(written)
