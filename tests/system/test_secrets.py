"""No secret is in any output. Marked secrets go through every RPC of a process, and the upstream echoes them."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
import httpx
import pytest
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from tests.support.collector import TraceCollector
from tests.support.paths import ROOT
from tests.support.raw import raw_call
from tests.support.upstream import Connection, ReceivedRequest, ScriptedUpstream, answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.slow

JOB_SERVICE = pb.DESCRIPTOR.services_by_name["JobService"]
TEST_SECONDS = 30.0

TOKEN = "MARKtoken-0123456789-abcdef"
# The gateway's own token, used for callers without one.
OWN_TOKEN = "MARKowned-0123456789-abcdef"
METADATA = "MARKmetadata-0123456789"
PARAMS = "MARKparams-0123456789"
RESPONSE = "MARKresponse-0123456789"
MARKS = (TOKEN, OWN_TOKEN, METADATA, PARAMS, RESPONSE)


def spellings(secret: str) -> set[str]:
    """Return a secret in the encodings that libraries may use."""
    data = secret.encode()
    return {secret, secret[5:], data.hex(), base64.b64encode(data).decode()[4:-4], quote(secret, safe=""), secret[::-1]}


# Responses that echo a request: its credential, headers and body as one text.
ECHOES: dict[str, Callable[[str], bytes]] = {
    "sentence": lambda echo: answer(400, {"detail": echo}),
    "fields": lambda echo: answer(422, {echo: [echo], "params": {echo: {echo: [echo]}}}),
    "defect": lambda echo: answer(500, {"error": {"message": echo, echo: echo}}),
    "page": lambda echo: answer(502, raw=f"<html>{echo}</html>".encode()),
    "encoded": lambda echo: answer(409, {"detail": base64.b64encode(echo.encode()).decode() + quote(echo, safe="")}),
    "unauthenticated": lambda echo: answer(
        401, {"detail": echo}, headers={"WWW-Authenticate": f"Bearer x={echo[:99]}"}
    ),
    "throttled": lambda echo: answer(429, {"detail": echo}, headers={"Retry-After": echo[:99]}),
    "cookie": lambda echo: answer(404, {"detail": echo}, headers={"Set-Cookie": f"session={echo[:99]}"}),
    "redirect": lambda echo: answer(302, {}, headers={"Location": f"http://127.0.0.1:1/?{quote(echo)[:99]}"}),
    "no-json": lambda echo: answer(200, raw=echo.encode()),
    "no-job": lambda echo: answer(200, {"uid": echo, "status": [echo], echo: echo}),
    "no-http": lambda echo: f"{echo[:99]}\r\n\r\n".encode(),
    "bad-header": lambda echo: f"HTTP/1.1 200 OK\r\n{echo[:99]}\x01: 1\r\n\r\n".encode(),
    "bad-length": lambda echo: f"HTTP/1.1 200 OK\r\nContent-Length: {echo[:99]}\r\n\r\n".encode(),
    "two-lengths": lambda echo: f"HTTP/1.1 200 {echo[:99]}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".encode(),
    "failed-job": lambda echo: answer(
        200,
        {
            "uid": 42,
            "status": "error",
            "completed_at": 1,
            "message": echo,
            "error": {"message": echo, "type": echo, "stack_trace": echo},
            "log_download_url": f"https://127.0.0.1/?{echo[:99]}",
        },
    ),
    "odd-word": lambda echo: answer(200, {"uid": 42, "status": echo, "kind": echo, "completed_at": 1}),
}
NAMES = tuple(ECHOES)
JOB = re.compile(rb"/jobs/(\d+)/")


class Echo(ScriptedUpstream):
    """Echo each request in the way that its workspace or the uid of its job chooses."""

    async def respond(self, seen: ReceivedRequest, connection: Connection) -> bool:
        echo = " ".join([RESPONSE, seen.headers.get("authorization", ""), *seen.headers.values(), seen.body.decode()])
        job = JOB.search(seen.path.encode())
        if job is None:
            name = seen.path.split("/")[3]
        elif (number := int(job[1])) <= len(NAMES):
            name = NAMES[number - 1]
        else:
            await connection.gone()
            return False
        reply = ECHOES[name](echo.replace("\r", " ").replace("\n", " "))
        await connection.send(reply.replace(b'"uid": 42', b'"uid": %d' % int(job[1]) if job else b'"uid": 42'))
        return b"HTTP/1.1 200 OK" not in reply and reply.startswith(b"HTTP/1.1 ")


class Process:
    """A process of `serve`, and its output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.written = ""
        self.address = self.admin = ""
        self._serving = asyncio.Event()
        self._readers = [asyncio.create_task(self._read(each)) for each in (process.stdout, process.stderr)]

    async def _read(self, stream: Any) -> None:
        while line := (await stream.readline()).decode():
            self.written += line
            found = dict(re.findall(r'\b((?:admin_)?address)(?:=|": ")(\d[\d.]+:\d+)', line))
            if len(found) == 2:
                self.address, self.admin = found["address"], found["admin_address"]
                self._serving.set()

    async def serving(self) -> None:
        async with asyncio.timeout(TEST_SECONDS):
            await self._serving.wait()

    async def end(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        await asyncio.gather(*self._readers)
        return await self._process.wait()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


@asynccontextmanager
async def serve(upstream: str, collector: str, log_format: str, token_file: Path) -> AsyncIterator[Process]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JOBGATEWAY_", "OTEL_", "GRPC_"))}
    variables = {
        "JOBGATEWAY_UPSTREAM_URL": upstream,
        "JOBGATEWAY_UPSTREAM_TOKEN_FILE": str(token_file),
        "JOBGATEWAY_LISTEN": "127.0.0.1:0",
        "JOBGATEWAY_ADMIN_LISTEN": "127.0.0.1:0",
        "JOBGATEWAY_LOG_FORMAT": log_format,
        "JOBGATEWAY_LOG_LEVEL": "debug",
        "JOBGATEWAY_POLL_INTERVAL_MIN_SECONDS": "0.02",
        "JOBGATEWAY_POLL_INTERVAL_MAX_SECONDS": "0.05",
        "JOBGATEWAY_POLL_OUTAGE_SECONDS": "0.2",
        "JOBGATEWAY_DRAIN_GRACE_SECONDS": "0.2",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
    }
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve"),
        cwd=ROOT,
        env=kept | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    process = Process(child)
    try:
        await process.serving()
        yield process
    finally:
        process.kill()
        await child.wait()


def metadata(*, brings_token: bool = True) -> tuple[tuple[str, str | bytes], ...]:
    return (
        *((("authorization", f"Bearer {TOKEN}"),) if brings_token else ()),
        ("cookie", f"session={METADATA}"),
        ("proxy-authorization", f"Basic {METADATA}"),
        ("x-api-key", METADATA),
        (METADATA.lower(), METADATA),
        ("x-secret-bin", METADATA.encode()),
        ("grpc-trace-bin", METADATA.encode()),
    )


def send(workspace: str, **more: Any) -> pb.SendJobRequest:
    fields: dict[str, Any] = {"entity_id": 7, "params_json": f'{{"password": "{PARAMS}"}}'.encode()}
    return pb.SendJobRequest(workspace_id=workspace, **(fields | more))


def requests(name: str, uid: int) -> list[tuple[str, Any]]:
    """Return one request of each RPC."""
    wait = pb.WaitJobRequest(uid=uid)
    wait.timeout.FromMilliseconds(1_000)
    return [
        ("SendJob", send(name)),
        ("SendJob", send(name, request_id="once")),
        ("RunJob", pb.RunJobRequest(request=send(name))),
        ("GetJob", pb.GetJobRequest(uid=uid)),
        ("WatchJob", pb.WatchJobRequest(uid=uid)),
        ("WaitJob", wait),
        ("CancelJob", pb.CancelJobRequest(uid=uid)),
    ]


# Invalid requests, rejected before anything is sent, with a secret in the invalid part.
WRONG: list[tuple[str, Any]] = [
    ("SendJob", send(f"../{PARAMS}")),
    ("SendJob", send("sentence", entity_id=-1)),
    ("SendJob", send("sentence", params_json=f'{{"a": {PARAMS}'.encode())),
    ("SendJob", send("sentence", params_json=f'{{"{PARAMS}": 1, "{PARAMS}": 2}}'.encode())),
    ("SendJob", send("sentence", params_json=f'"{PARAMS}"'.encode() + b"\xff")),
    ("SendJob", send("sentence", request_id=f"{PARAMS} é")),
    ("SendJob", send("sentence", events=[PARAMS, f"{PARAMS}\n"])),
    ("RunJob", pb.RunJobRequest(request=send("sentence", params_json=PARAMS.encode()))),
    ("WatchJob", pb.WatchJobRequest(uid=42, resume_token=PARAMS)),
    ("WatchJob", pb.WatchJobRequest(uid=42, resume_token=f"{PARAMS}é")),
]

# Unusable credentials.
CREDENTIALS: dict[str, list[bytes]] = {
    "no scheme": [TOKEN.encode()],
    "another scheme": [b"Basic " + TOKEN.encode()],
    "two": [b"Bearer " + TOKEN.encode(), b"Bearer " + TOKEN.encode()],
    "two words": [b"Bearer " + TOKEN.encode() + b" " + TOKEN.encode()],
    "no ASCII": [b"Bearer " + TOKEN.encode() + "é".encode()],
    "no UTF-8": [b"Bearer " + TOKEN.encode() + b"\xa0\xff"],
    "a control": [b"Bearer " + TOKEN.encode() + b"\x01"],
    "a line break": [b"Bearer " + TOKEN.encode() + b"\r\nx: y"],
    "too long": [b"Bearer " + TOKEN.encode() * 300],
}


class Caller:
    """Call a process, and keep its errors."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.trailers: list[str] = []
        self.codes: set[str] = set()

    async def call_all(self, stub: Any, requests: list[tuple[str, Any]]) -> None:
        """Make each call with and without a token, concurrently."""
        await asyncio.gather(*(self._call(stub, *each, brings) for each in requests for brings in (True, False)))

    async def _call(self, stub: Any, name: str, request: Any, brings_token: bool) -> None:
        call = getattr(stub, name)(request, metadata=metadata(brings_token=brings_token), timeout=TEST_SECONDS)
        try:
            if JOB_SERVICE.methods_by_name[name].server_streaming:
                async for _ in call:
                    pass
            else:
                await call
        except grpc.aio.AioRpcError as error:
            self.codes.add(error.code().name)
            self.trailers.append(f"{error.details()} {error.initial_metadata()} {error.trailing_metadata()}")

    async def raw(self, name: str, message: bytes, extra: list[tuple[bytes, bytes]]) -> None:
        headers = [(b"x-api-key", METADATA.encode()), *extra]
        path = f"/{JOB_SERVICE.full_name}/{name}"
        try:
            async with asyncio.timeout(TEST_SECONDS), raw_call(self._address, path, message, headers) as call:
                got = await call.end()
        except ConnectionError:
            # grpc itself may reject such a header and reset the stream or close the connection.
            return
        self.codes.add(grpc.StatusCode(_code(got.code)).name)
        self.trailers.append(str(got.headers))


def _code(number: int) -> tuple[int, str]:
    return next(code.value for code in grpc.StatusCode if code.value[0] == number)


async def exercise(process: Process) -> Caller:
    """Call every RPC with every kind of response, and with every kind of invalid request."""
    caller = Caller(process.address)
    async with grpc.aio.insecure_channel(process.address) as channel:
        stub: Any = rpc.JobServiceStub(channel)
        for number, name in enumerate(NAMES, 1):
            await caller.call_all(stub, requests(name, number))
        await caller.call_all(stub, WRONG)
    messages = {name: request.SerializeToString() for name, request in requests("sentence", 1)}
    for name, message in messages.items():
        for values in CREDENTIALS.values():
            await caller.raw(name, message, [(b"authorization", value) for value in values])
        good = (b"authorization", b"Bearer " + TOKEN.encode())
        for header in (b"x-request-id", b"traceparent"):
            for values in (
                [b"\xff" + METADATA.encode()],
                [METADATA.encode() + b"\x01"],
                [METADATA.encode() + b"\x01"] * 2,
            ):
                await caller.raw(name, message, [good, *((header, value) for value in values)])
        await caller.raw(name, b"\xff" + PARAMS.encode(), [good])
    for method in ("Evil", METADATA):
        await caller.raw(method, b"", [])
    return caller


def held_tokens(upstream: ScriptedUpstream) -> set[str]:
    """Return the tokens of the requests for the job without a response."""
    held = [seen for seen in upstream.seen if "/jobs/10000/" in seen.path]
    return {seen.headers["authorization"].removeprefix("Bearer ") for seen in held}


def found(text: str, secrets: tuple[str, ...]) -> list[str]:
    return [each for secret in secrets for each in spellings(secret) if each in text]


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_no_secret_is_in_any_output(log_format: str, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(OWN_TOKEN)
    upstream, collector = Echo(), TraceCollector()
    await upstream.start()
    await collector.start()
    try:
        async with serve(upstream.url, collector.url, log_format, token_file) as process:
            caller = await exercise(process)
            async with httpx.AsyncClient(trust_env=False, headers={"x-api-key": METADATA}) as client:
                metrics = (await client.get(f"http://{process.admin}/metrics", params={"q": METADATA})).text
                assert (await client.get(f"http://{process.admin}/{METADATA}")).status_code == 404
            async with grpc.aio.insecure_channel(process.address) as channel:
                # Calls that the end of the process aborts, and a client that leaves.
                stub: Any = rpc.JobServiceStub(channel)
                token_file.write_text(f"{OWN_TOKEN} cannot be used")
                held = asyncio.create_task(caller.call_all(stub, requests("sentence", 10_000)))
                left = stub.WatchJob(pb.WatchJobRequest(uid=10_001), metadata=metadata())
                await left.initial_metadata()
                left.cancel()
                async with upstream.arrived:
                    await upstream.arrived.wait_for(lambda: held_tokens(upstream) == {TOKEN, OWN_TOKEN})
                assert await process.end() == 0
                await held
    finally:
        await collector.stop()
        await upstream.stop()
    # Check the test itself: the upstream saw all secrets, and each kind of output exists.
    everything = " ".join(f"{seen.headers} {seen.body!r}" for seen in upstream.seen)
    assert TOKEN in everything
    assert OWN_TOKEN in everything
    assert PARAMS in everything
    assert METADATA not in everything
    assert {"UNAUTHENTICATED", "INVALID_ARGUMENT", "UNKNOWN", "INTERNAL", "UNAVAILABLE", "NOT_FOUND"} <= caller.codes
    exported = " ".join(str(request) for request in collector.requests)
    lines = process.written.splitlines()
    assert len([line for line in lines if "WatchJob" in line]) > 2 * len(ECHOES)
    assert len([line for line in lines if "files.invalid" in line]) == 1
    assert {span.name for span in collector.spans} >= {"poll", "submit", f"{JOB_SERVICE.full_name}/RunJob"}
    assert "grpc_server_handled_total" in metrics
    for output in (process.written, metrics, exported):
        assert found(output, MARKS) == []
    # A client may read the upstream's text about its own request, but no credential.
    assert any(RESPONSE in each for each in caller.trailers)
    for trailers in caller.trailers:
        assert TOKEN not in trailers
        assert OWN_TOKEN not in trailers
        assert METADATA not in trailers
