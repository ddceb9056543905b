"""The life of the process: it starts, serves, drains and exits."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import struct
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from gateway.config import Settings
from gateway.server import health
from gateway.server.defaults import OPTIONS
from gateway.server.gateway import Gateway
from tests.support.certificates import Authority, MountedSecret
from tests.support.frames import header_block, headers, peer
from tests.support.gateways import BEARER, GET_JOB, SEND, TOKEN, Failure, expect_error, running, stub
from tests.support.paths import ROOT
from tests.support.raw import free_port, raw_call
from tests.support.upstream import DONE, RUNNING, Connection, ScriptedUpstream, answer, hang

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

JOB_SERVICE_NAME = "jobgateway.v1.JobService"
BAD_PATH: Any = b"/\xff\xfe"
PATIENT = 20.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Held:
    """A response that waits until it is released."""

    def __init__(self, reply: bytes = RUNNING) -> None:
        self.reply = reply
        self.go = asyncio.Event()

    async def __call__(self, connection: Connection) -> None:
        await self.go.wait()
        await connection.send(self.reply)


async def read_all(stream: Any, events: list[pb.JobEvent]) -> None:
    while (event := await stream.read()) is not grpc.aio.EOF:
        events.append(event)


# The process


class Served:
    """A process of `jobgateway serve`, and its log."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    @property
    def events(self) -> list[str]:
        """The events that were logged, without that of the probe, which may be anywhere or missing."""
        return [line["event"] for line in self.lines if line["event"] != "upstream.probed"]

    async def logged(self, event: str) -> dict[str, Any]:
        """The first line with `event` that is still to come; each line before it is JSON."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"the process ended without {event!r}: {self.lines}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def end(self) -> int:
        """Read the rest of the log, and return the exit code."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(json.loads(line))
        return await self.process.wait()


SERVE = ("-m", "gateway", "serve")
# `serve`, which receives a signal while it imports a module.
SIGNALLED = """
import os, sys

class Importing:
    @staticmethod
    def find_spec(name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), {number:d})

sys.meta_path.insert(0, Importing)
from gateway.__main__ import main
main()
"""
# `serve`, which logs each import in a line of its own.
TRACED = """
import json, os, sys

def trace(event, details):
    if event == "import":
        os.write(2, (json.dumps({"event": "import", "name": details[0]}) + chr(10)).encode())

sys.addaudithook(trace)
from gateway.__main__ import main
main()
"""


async def spawn(command: Sequence[str] = SERVE, **settings: str) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBGATEWAY_")}
    environment |= {f"JOBGATEWAY_{name.upper()}": value for name, value in settings.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def process(upstream: ScriptedUpstream, command: Sequence[str] = SERVE, **settings: str) -> AsyncIterator[Served]:
    usual = {"upstream_url": upstream.url, "listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}
    child = await spawn(command, **(usual | settings))
    try:
        yield Served(child)
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


@pytest.mark.slow
async def test_calls_import_nothing(upstream: ScriptedUpstream) -> None:
    async with process(upstream, ("-c", TRACED, "serve")) as server:
        serving = await server.logged("serving")
        assert "import" in server.events
        server.lines.clear()
        # So that it takes no response of the script.
        await server.logged("upstream.probed")
        upstream.script += [RUNNING, answer(201, {"uid": 42, "status": "running"}), answer(404, {"detail": "no"}), DONE]
        async with grpc.aio.insecure_channel(serving["address"]) as channel:
            jobs = rpc.JobServiceStub(channel)
            await jobs.GetJob(GET_JOB, metadata=BEARER)
            await jobs.SendJob(SEND, metadata=BEARER)
            await expect_error(jobs.GetJob(pb.GetJobRequest(uid=1), metadata=BEARER))
            assert [each async for each in jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)]
        async with httpx.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"http://{serving['admin_address']}/metrics")).status_code == 200
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert [line["name"] for line in server.lines if line["event"] == "import"] == []
    assert server.events.count("call") == 4


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_the_process_exits_with_0(upstream: ScriptedUpstream, number: int) -> None:
    held = Held()
    upstream.on("GET", "/jobs/42/", held)
    upstream.on("GET", "/jobs/43/", answer(200, {"uid": 43, "status": "running"}))
    async with process(upstream, drain_grace_seconds="3") as server:
        address = (await server.logged("serving"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            jobs = rpc.JobServiceStub(channel)
            checked: Any = health_pb2_grpc.HealthStub(channel)
            watched = checked.Watch(health_pb2.HealthCheckRequest(service=JOB_SERVICE_NAME))
            assert (await watched.read()).status == SERVING
            unary = jobs.GetJob(GET_JOB, metadata=(*BEARER, ("x-request-id", "id-1")))
            events: list[pb.JobEvent] = []
            stream = jobs.WatchJob(pb.WatchJobRequest(uid=43), metadata=BEARER)
            events.append(await stream.read())  # type: ignore[arg-type] # no end yet
            watch = asyncio.create_task(expect_error(read_all(stream, events)))
            await upstream.wait_for(2)

            server.signal(number)
            assert (await watched.read()).status == NOT_SERVING
            asked = await checked.Check(health_pb2.HealthCheckRequest(service=JOB_SERVICE_NAME))
            assert asked.status == NOT_SERVING
            refused = await expect_error(jobs.GetJob(GET_JOB, metadata=BEARER))
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            held.go.set()
            assert (await unary).uid == 42

            left_over = await watch
            assert (left_over.code, left_over.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert 1 <= left_over.retry.retry_delay.ToMilliseconds() / 1000 <= 5
            assert events[-1].resume_token
        assert await server.end() == 0
    events_logged = [line["event"] for line in server.lines]
    assert "drain.ending_watches" in events_logged
    assert "drain.calls_cut" not in events_logged
    calls = [line for line in server.lines if line["event"] == "call"]
    assert {(line["method"], line["code"], line.get("reason")) for line in calls} == {
        ("GetJob", "OK", None),
        ("GetJob", "UNAVAILABLE", "DRAINING"),
        ("WatchJob", "UNAVAILABLE", "DRAINING"),
    }
    assert [line.get("x-request-id") for line in calls].count("id-1") == 1
    assert server.lines[-1]["event"] == "process.stopped"
    assert TOKEN not in json.dumps(server.lines)


@pytest.mark.slow
async def test_a_second_signal_ends_the_process_immediately(upstream: ScriptedUpstream) -> None:
    upstream.script.append(hang)
    async with process(upstream, drain_grace_seconds="3600") as server:
        address = (await server.logged("serving"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            call = rpc.JobServiceStub(channel).GetJob(GET_JOB, metadata=BEARER)
            await upstream.wait_for(1)
            server.signal(signal.SIGTERM)
            await server.logged("drain.started")
            server.signal(signal.SIGTERM)
            assert await server.end() == 1
            with pytest.raises(grpc.aio.AioRpcError):
                await call


@pytest.mark.slow
async def test_an_upstream_that_is_away_delays_no_start() -> None:
    child = await spawn(
        upstream_url=f"http://127.0.0.1:{free_port()}/api", listen="127.0.0.1:0", admin_listen="127.0.0.1:0"
    )
    server = Served(child)
    await server.logged("serving")
    probed = await server.logged("upstream.probed")
    assert (probed["level"], probed["result"], probed["cause"]) == ("warning", "unreachable", "Connection refused")
    server.signal(signal.SIGTERM)
    assert await server.end() == 0


@pytest.mark.slow
async def test_a_probe_without_response_delays_no_exit(upstream: ScriptedUpstream) -> None:
    upstream.probe = hang
    async with process(upstream, drain_grace_seconds="3600") as server:
        await server.logged("serving")
        async with upstream.arrived:
            await upstream.arrived.wait_for(lambda: upstream.probes)
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert "upstream.probed" not in [line["event"] for line in server.lines]


@pytest.mark.slow
async def test_an_idle_process_ends_immediately(upstream: ScriptedUpstream) -> None:
    async with process(upstream, drain_grace_seconds="3600") as server:
        await server.logged("serving")
        server.signal(signal.SIGTERM)
        assert await server.end() == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["gateway.cli.app", "gateway.server.process"])
async def test_a_signal_during_the_start_is_followed(
    upstream: ScriptedUpstream, module: str, number: signal.Signals
) -> None:
    command = ("-c", SIGNALLED.format(module=module, number=number), "serve")
    async with process(upstream, command, drain_grace_seconds="3600") as server:
        assert await server.end() == 0
    assert server.events == ["serving", "drain.started", "process.stopped"]


@pytest.mark.slow
async def test_a_port_in_use_ends_the_start_with_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        child = await spawn(upstream_url="http://127.0.0.1:1", listen=listen, admin_listen="127.0.0.1:0")
        _, stderr = await child.communicate()
    assert child.returncode not in (0, None)
    line = json.loads(stderr)
    assert (line["event"], line["level"]) == ("start.failed", "error")
    assert f"JOBGATEWAY_LISTEN: {listen} cannot be bound" in line["message"]


async def take_port_from(address: str, taker: socket.socket) -> None:
    """End the listener at `address` until `taker`, which is bound there, listens before the listener is back."""
    for _ in range(20):
        async with AsyncExitStack() as stack:
            with contextlib.suppress(ConnectionError):
                hostile = await stack.enter_async_context(peer(address))
                await hostile.send(headers(1, header_block(BAD_PATH), end=True))
            # Without a pause, because the listener is back in less than a second.
            for _ in range(100_000):
                with contextlib.suppress(OSError):
                    taker.listen()
                    return
    raise AssertionError("the listener did not end")


def reset_all(server: socket.socket) -> None:
    """Blocking, in a thread: resets each connection as soon as it is accepted, until the server is closed."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.slow
async def test_connections_reset_in_their_handshake_harm_no_other(upstream: ScriptedUpstream) -> None:
    """The descriptor of one must not be closed twice: its number may belong to another by then."""
    outcomes: Counter[tuple[grpc.StatusCode, str | None]] = Counter()
    server = socket.create_server(("127.0.0.1", 0), backlog=512)
    resetting = asyncio.create_task(asyncio.to_thread(reset_all, server))

    async def call(jobs: rpc.JobServiceAsyncStub, number: int) -> None:
        send = pb.SendJobRequest(workspace_id="1", entity_id=7, request_id=f"id-{number}")
        made = jobs.GetJob(GET_JOB, metadata=BEARER) if number % 3 else jobs.SendJob(send, metadata=BEARER)
        failure = await expect_error(made)
        outcomes[failure.code, failure.reason] += 1

    async def call_often(jobs: rpc.JobServiceAsyncStub, first: int) -> None:
        for number in range(40):
            await call(jobs, first + number)

    async with process(upstream, upstream_url=f"https://127.0.0.1:{server.getsockname()[1]}") as gateway:
        address = (await gateway.logged("serving"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            jobs: rpc.JobServiceAsyncStub = rpc.JobServiceStub(channel)
            await asyncio.gather(*(call_often(jobs, 100 * each) for each in range(20)))
        gateway.signal(signal.SIGTERM)
        assert await gateway.end() == 0
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    await resetting
    assert outcomes == {(grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNREACHABLE"): 800}


@pytest.mark.slow
async def test_a_lost_listener_ends_the_process_with_1(upstream: ScriptedUpstream) -> None:
    with socket.socket() as taker:
        # It shares the port with the listener, because neither listens yet.
        taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taker.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taker.getsockname()[1]}"
        async with process(upstream, listen=address) as server:
            await server.logged("serving")
            await take_port_from(address, taker)
            lost = await server.logged("listener.lost")
            assert await server.end() == 1
    assert lost["level"] == "error"
    assert f"{address} cannot be bound" in lost["why"]
    events = server.events
    assert events[-2:] == ["listener.lost", "process.stopped"]
    assert "drain.started" not in events


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["json", "text", "yaml"])
async def test_each_wrong_setting_gets_a_line_of_its_own(log_format: str) -> None:
    child = await spawn(upstream_url="http://127.0.0.1:1", max_calls="many", max_watches="0", log_format=log_format)
    _, stderr = await child.communicate()
    assert child.returncode == 2
    lines = stderr.decode().splitlines()
    if log_format != "text":
        found = [json.loads(line) for line in lines]
        assert {(line["event"], line["level"]) for line in found} == {("start.failed", "error")}
        lines = [line["message"] for line in found]
    names = [line.partition(":")[0] for line in lines if "LOG_FORMAT" not in line]
    assert names == ["JOBGATEWAY_MAX_CALLS", "JOBGATEWAY_MAX_WATCHES"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tls_cert_file", "upstream_token_file"])
async def test_an_unusable_file_ends_the_start_with_one_line(tmp_path: Path, name: str) -> None:
    nowhere = str(tmp_path / "nowhere")
    settings = {name: nowhere} | ({"tls_key_file": nowhere} if name == "tls_cert_file" else {})
    child = await spawn(upstream_url="http://127.0.0.1:1", **settings)
    _, stderr = await child.communicate()
    assert child.returncode == 2
    why = "cannot be read (No such file or directory); check the path and its permissions"
    assert json.loads(stderr)["message"] == f"JOBGATEWAY_{name.upper()}: {nowhere} {why}"


# `serve` in an environment that hangs, with a line on standard output when it does.
HANGING = """
import os, socket, threading

def hang(*_, **__):
    print("hangs", flush=True)
    threading.Event().wait()

def hanging_for(system, what):
    return lambda first, *args, **more: hang() if str(first) == what else system(first, *args, **more)

{hang}
from gateway.__main__ import main
main()
"""
RESOLVER = 'socket.getaddrinfo = hanging_for(socket.getaddrinfo, "hangs.test")'
NO_END = """
# A thread that starts before the signals are blocked would receive them.
from gateway.server import signals
signals.block()
# Python waits for such threads at its end.
threading.Thread(target=hang).start()
from concurrent.futures import ThreadPoolExecutor
ThreadPoolExecutor(1).submit(hang)
"""
NO_STOP = """
import gateway.server.process
from gateway.server.admin import AdminServer
gateway.server.defaults.CLOSE_SECONDS = 0.1
async def aclose(_):
    hang()
AdminServer.aclose = aclose
"""
FILE = """
import gateway.auth.reloading
gateway.auth.reloading.START_SECONDS = 1.0
os.open = hanging_for(os.open, {path!r})
"""


def hanging(hang: str) -> Sequence[str]:
    return ("-c", HANGING.format(hang=hang), "serve")


@pytest.mark.slow
async def test_a_resolver_that_hangs_delays_no_exit(upstream: ScriptedUpstream) -> None:
    url = "http://hangs.test:1"
    async with process(upstream, hanging(RESOLVER), upstream_url=url, drain_grace_seconds="1") as server:
        address = (await server.logged("serving"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            jobs = rpc.JobServiceStub(channel)
            watch = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
            assert server.process.stdout is not None
            assert await server.process.stdout.readline() == b"hangs\n"
            refused = await expect_error(jobs.GetJob(GET_JOB, metadata=BEARER))
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNREACHABLE")
            server.signal(signal.SIGTERM)
            assert (await expect_error(watch)).reason == "DRAINING"
        async with asyncio.timeout(PATIENT):
            assert await server.end() == 0


@pytest.mark.slow
async def test_threads_that_hang_delay_no_exit(upstream: ScriptedUpstream) -> None:
    async with process(upstream, hanging(NO_END), drain_grace_seconds="3600") as server:
        await server.logged("serving")
        server.signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENT):
            assert await server.end() == 0
    assert server.events == ["serving", "drain.started", "process.stopped"]


@pytest.mark.slow
async def test_a_stop_that_hangs_ends_after_the_grace(upstream: ScriptedUpstream) -> None:
    async with process(upstream, hanging(NO_STOP), drain_grace_seconds="0.5") as server:
        await server.logged("serving")
        server.signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENT):
            assert await server.end() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tls_cert_file", "upstream_token_file"])
async def test_a_file_that_hangs_ends_the_start_with_one_line(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / "file")
    settings = {name: path} | ({"tls_key_file": path} if name == "tls_cert_file" else {})
    child = await spawn(hanging(FILE.format(path=path)), upstream_url="http://127.0.0.1:1", **settings)
    async with asyncio.timeout(PATIENT):
        _, stderr = await child.communicate()
    assert child.returncode == 2
    why = "cannot be read within 1 s; check that the volume responds"
    assert json.loads(stderr)["message"] == f"JOBGATEWAY_{name.upper()}: {path} {why}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "is not a regular file; name a regular file"),
        (os.mkdir, "is not a regular file; name a regular file"),
        (lambda path: Path(path).write_text("junk"), "has no usable certificate; name a PEM file with authorities"),
        (
            lambda path: Path(path).write_bytes(bytes((1 << 20) + 1)),
            "has more than 1048576 bytes; check that it is the right file",
        ),
        (lambda _: None, "cannot be read (No such file or directory); check the path and its permissions"),
    ],
    ids=["a pipe", "a folder", "junk", "too large", "nothing"],
)
async def test_an_unfit_authority_file_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], why: str
) -> None:
    make(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    child = await spawn(upstream_url="http://127.0.0.1:1")
    async with asyncio.timeout(PATIENT):
        _, stderr = await child.communicate()
    assert child.returncode == 2
    assert json.loads(stderr)["message"] == f"SSL_CERT_FILE: {tmp_path / 'ca.pem'} {why}"


@pytest.mark.slow
async def test_authorities_that_hang_end_the_start_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    hang = """
import time
import gateway.auth.authorities
gateway.auth.authorities.START_SECONDS = 0.1
gateway.auth.authorities.read_regular = lambda path: time.sleep(3600)
"""
    child = await spawn(hanging(hang), upstream_url="http://127.0.0.1:1")
    async with asyncio.timeout(PATIENT):
        _, stderr = await child.communicate()
    assert child.returncode == 2
    why = "cannot be read within 0.1 s; check that the volume responds"
    assert json.loads(stderr)["message"] == f"SSL_CERT_FILE: {tmp_path / 'ca.pem'} {why}"


@pytest.mark.slow
async def test_an_event_loop_that_hangs_delays_no_exit() -> None:
    hang = """
import gateway.server.defaults, gateway.server.gateway
import time
gateway.server.defaults.CLOSE_SECONDS = 0.1
class Hanging(gateway.server.gateway.Gateway):
    async def start(self):
        print("hangs", flush=True)
        time.sleep(3600)
import gateway.server.process
gateway.server.process.Gateway = Hanging
"""
    child = await spawn(hanging(hang), upstream_url="http://127.0.0.1:1", drain_grace_seconds="0.1")
    assert child.stdout is not None
    async with asyncio.timeout(PATIENT):
        assert await child.stdout.readline() == b"hangs\n"
        child.send_signal(signal.SIGTERM)
        await child.wait()
    assert child.returncode == 1


@pytest.mark.slow
async def test_a_second_signal_works_if_the_event_loop_hangs() -> None:
    hang = """
import gateway.server.gateway
import time
class Hanging(gateway.server.gateway.Gateway):
    async def start(self):
        print("hangs", flush=True)
        time.sleep(3600)
import gateway.server.process
gateway.server.process.Gateway = Hanging
"""
    child = await spawn(hanging(hang), upstream_url="http://127.0.0.1:1")
    assert child.stdout is not None
    async with asyncio.timeout(PATIENT):
        assert await child.stdout.readline() == b"hangs\n"
        # Two pending signals of one kind would count once.
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)
        await child.wait()
    assert child.returncode == 1


@pytest.mark.slow
async def test_failed_handshakes_leave_no_line_of_grpc(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    authority, files = Authority(), MountedSecret(tmp_path)
    files.put(authority.server())
    config = tmp_path / "gateway.toml"
    config.write_text(f'tls_cert_file = "{files.cert}"\ntls_key_file = "{files.key}"\n')
    # The variable of another command looks like a setting.
    async with process(upstream, (*SERVE, "--config", str(config)), cert_file="mistyped") as server:
        host, _, port = (await server.logged("serving"))["address"].rpartition(":")
        files.put(authority.server())
        for _ in range(2):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await reader.read()
            writer.close()
        await server.logged("tls.handshake_failed")
        server.signal(signal.SIGTERM)
        assert await server.end() == 0  # each line was JSON
    # Written by another thread, at any time.
    assert [event for event in server.events if event != "tls.handshake_failed"] == [
        "settings.ignored",
        "certificate.loaded",
        "serving",
        "files.reloaded",
        "certificate.loaded",
        "drain.started",
        "process.stopped",
    ]


@pytest.mark.slow
async def test_text_logs_are_lines_too(upstream: ScriptedUpstream) -> None:
    async with process(upstream, log_format="text") as server:
        assert server.process.stderr is not None
        line = await server.process.stderr.readline()
        assert b"serving" in line
        assert f"upstream={upstream.url}".encode() in line
        server.signal(signal.SIGTERM)
        _, rest = await server.process.communicate()
        lines = [line for line in rest.splitlines() if b"upstream.probed" not in line]
        assert [b"drain.started" in line for line in lines] == [True, False]


@pytest.mark.slow
async def test_the_serving_line_says_how_it_is_set_up(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-secret-token")
    settings = {"upstream_token_file": str(tmp_path / "token"), "max_calls": "7", "log_level": "debug"}
    async with process(upstream, state_url=f"sqlite:///{tmp_path}/jobs.db", **settings) as server:
        line = await server.logged("serving")
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert list(line)[:3] == ["event", "level", "timestamp"]
    assert (line["tls"], line["own_token"], line["limits"], line["log_level"]) == (
        "off",
        True,
        {"max_calls": 7},
        "debug",
    )
    assert (line["state"], line["upstream"]) == (f"sqlite:///{tmp_path}/jobs.db", upstream.url)
    assert "a-secret-token" not in json.dumps(server.lines)


async def on_a_terminal(**settings: str) -> tuple[int, str]:
    """Run `serve` with its standard error at a terminal until it serves; return the exit code and the output."""
    terminal, other_end = os.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBGATEWAY_")}
    environment |= {"NO_COLOR": "1"} | {f"JOBGATEWAY_{name.upper()}": value for name, value in settings.items()}
    child = await asyncio.create_subprocess_exec(sys.executable, *SERVE, cwd=ROOT, env=environment, stderr=other_end)
    os.close(other_end)
    output = b""
    # The terminal raises an error when the process has closed it.
    with contextlib.suppress(OSError):
        while data := await asyncio.to_thread(os.read, terminal, 1 << 16):
            if b"jobgateway get" in data or b'"serving"' in data:
                child.send_signal(signal.SIGTERM)
            output += data
    os.close(terminal)
    return await child.wait(), output.decode().replace("\r\n", "\n")


@pytest.mark.slow
async def test_a_terminal_shows_a_table_and_a_command(upstream: ScriptedUpstream) -> None:
    free = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "max_calls": "7"}
    code, output = await on_a_terminal(upstream_url=upstream.url, **free)
    assert code == 0
    found = re.search(r"gRPC +(127\.0\.0\.1:\d+) \(plain text\)", output)
    assert found
    assert f"  jobgateway get 42 --target {found[1]}\n" in output
    assert re.search(f"Upstream +{re.escape(upstream.url)} ", output)
    assert re.search("Changed +max_calls=7 ", output)
    assert "drain.started" in output
    assert "{" not in output


@pytest.mark.slow
async def test_a_terminal_that_asks_for_json_gets_no_table(upstream: ScriptedUpstream) -> None:
    free = {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}
    _, output = await on_a_terminal(upstream_url=upstream.url, log_format="json", **free)
    events = [json.loads(line)["event"] for line in output.splitlines()]
    # The probe of the upstream may end before the process does.
    assert [event for event in events if event != "upstream.probed"] == ["serving", "drain.started", "process.stopped"]


@pytest.mark.slow
async def test_a_terminal_shows_mistakes_as_plain_lines() -> None:
    code, output = await on_a_terminal(upstream_url="http://127.0.0.1:1", max_calls="0", max_watches="0")
    assert code == 2
    assert [line.partition(":")[0] for line in output.splitlines()] == [
        "JOBGATEWAY_MAX_CALLS",
        "JOBGATEWAY_MAX_WATCHES",
    ]


# Serving


@pytest.mark.parametrize("service", ["", JOB_SERVICE_NAME, "grpc.health.v1.Health"])
async def test_health_reports_serving(gateway: Gateway, service: str) -> None:
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        checked: Any = health_pb2_grpc.HealthStub(channel)
        got = await checked.Check(health_pb2.HealthCheckRequest(service=service))
    assert got.status == SERVING


async def test_health_lists_all_services(gateway: Gateway) -> None:
    known: Any = health_pb2
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        checked: Any = health_pb2_grpc.HealthStub(channel)
        statuses = (await checked.List(known.HealthListRequest())).statuses
    assert {name: each.status for name, each in statuses.items()} == dict.fromkeys(
        ("", JOB_SERVICE_NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"), SERVING
    )


@pytest.mark.parametrize("symbol", [JOB_SERVICE_NAME, f"{JOB_SERVICE_NAME}.GetJob"])
async def test_reflection_lists_the_service_and_describes_it(gateway: Gateway, symbol: str) -> None:
    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)

    async with grpc.aio.insecure_channel(gateway.address) as channel:
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
        listed, described = [each async for each in reflection.ServerReflectionInfo(requests())]
    assert JOB_SERVICE_NAME in [service.name for service in listed.list_services_response.service]
    files = described.file_descriptor_response.file_descriptor_proto
    parsed = {file.name: file for file in map(descriptor_pb2.FileDescriptorProto.FromString, files)}
    assert [method.name for method in parsed[pb.DESCRIPTOR.name].service[0].method] == [
        method.name for method in pb.DESCRIPTOR.services_by_name["JobService"].methods
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "most"), [(500, 375), (1, 1)])
async def test_a_burst_is_served_or_rejected_with_a_reason(upstream: ScriptedUpstream, limit: int, most: int) -> None:
    """One credential may have three quarters of the slots."""
    burst = 2_000
    held = Held(answer(200, {"uid": 42, "status": "running"}, headers={"Connection": "close"}))
    upstream.script.append(held)
    patience = {"upstream_timeout_seconds": 600.0}
    async with running(upstream.url, max_calls=limit, max_watches=limit, **patience) as gateway, stub(gateway) as jobs:

        async def outcome() -> str:
            try:
                await jobs.GetJob(GET_JOB, metadata=BEARER)
            except grpc.aio.AioRpcError as error:
                return str(Failure(error).reason)
            return "OK"

        calls = [asyncio.create_task(outcome()) for _ in range(burst)]
        refused = [await each for each in itertools.islice(asyncio.as_completed(calls), burst - most)]
        held.go.set()
        outcomes = Counter(await asyncio.gather(*calls))
    assert Counter(refused) == {"LIMIT_REACHED": burst - most}
    assert outcomes == {"LIMIT_REACHED": burst - most, "OK": most}


def test_grpc_knows_every_option_that_is_set() -> None:
    # grpc silently ignores a name that it does not know.
    library = Path(sys.modules[grpc.aio.AbortError.__module__].__file__ or "")
    known = library.read_bytes()
    assert [name for name, _ in OPTIONS if name.encode() + b"\0" not in known] == []


# Draining


@pytest.mark.parametrize("grace", [0, 0.3])
async def test_a_submission_longer_than_the_grace_has_no_outcome(upstream: ScriptedUpstream, grace: float) -> None:
    upstream.script.append(hang)
    request = pb.SendJobRequest(workspace_id="1", entity_id=7)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        send = asyncio.create_task(expect_error(jobs.SendJob(request, metadata=BEARER)))
        run = asyncio.create_task(expect_error(jobs.RunJob(pb.RunJobRequest(request=request), metadata=BEARER)))
        await upstream.wait_for(2)
        await gateway.stop(grace=grace)
        for failure in (await send, await run):
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNKNOWN, "SUBMIT_OUTCOME_UNKNOWN")
            assert failure.retry is None
    assert len(upstream.requests("POST")) == 2


@pytest.mark.parametrize("grace", [0, 0.3])
async def test_calls_longer_than_the_grace_end_with_draining(upstream: ScriptedUpstream, grace: float) -> None:
    upstream.script.append(hang)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        calls = [
            jobs.GetJob(GET_JOB, metadata=BEARER),
            jobs.WaitJob(pb.WaitJobRequest(uid=43), metadata=BEARER),
            jobs.WatchJob(pb.WatchJobRequest(uid=44), metadata=BEARER),
        ]
        failures = [asyncio.create_task(expect_error(call)) for call in calls]
        await upstream.wait_for(3)
        await gateway.stop(grace=grace)
        for failure in await asyncio.gather(*failures):
            assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            assert failure.retry is not None


async def test_a_drain_is_no_disconnect_and_cancels_no_job(upstream: ScriptedUpstream) -> None:
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    upstream.script.append(hang)
    request = pb.RunJobRequest(request=pb.SendJobRequest(workspace_id="1", entity_id=7), cancel_on_disconnect=True)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        stream = jobs.RunJob(request, metadata=BEARER)
        first = await stream.read()
        assert isinstance(first, pb.JobEvent)
        await upstream.wait_for(2)
        await gateway.stop(grace=0)
        failure = await expect_error(stream)
    assert failure.reason == "DRAINING"
    assert failure.metadata["uid"] == "42"
    assert upstream.requests("DELETE") == []


async def test_a_drain_abandons_submissions_after_the_grace(
    upstream: ScriptedUpstream, logged: list[dict[str, Any]]
) -> None:
    upstream.script.append(hang)
    async with running(upstream.url, submit_timeout_seconds=3600) as gateway, stub(gateway) as jobs:
        call = jobs.SendJob(pb.SendJobRequest(workspace_id="1", entity_id=7), metadata=BEARER)
        await upstream.wait_for(1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(PATIENT):
            await gateway.stop(grace=0.1)
    assert "drain.submissions_cut" in [line["event"] for line in logged]


# A gateway that never ran


def settings(**more: Any) -> Settings:
    return Settings(upstream_url="http://127.0.0.1:1", **({"admin_listen": "127.0.0.1:0"} | more))


async def test_a_gateway_that_was_never_started_can_be_stopped() -> None:
    await Gateway(settings()).stop(0)


async def test_a_gateway_whose_start_failed_can_be_stopped() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        gateway = Gateway(settings(listen=f"127.0.0.1:{taken.getsockname()[1]}"))
        with pytest.raises(OSError, match="JOBGATEWAY_LISTEN"):
            await gateway.start()
        await gateway.stop(0)


async def test_two_gateways_do_not_share_a_port(upstream: ScriptedUpstream) -> None:
    async with running(upstream.url) as gateway:
        with pytest.raises(OSError, match="cannot be bound"):
            await Gateway(settings(listen=gateway.address)).start()


@pytest.mark.slow
async def test_undecodable_metadata_is_not_in_the_log(upstream: ScriptedUpstream) -> None:
    async with process(upstream) as server:
        address = (await server.logged("serving"))["address"]
        request = pb.GetJobRequest(uid=42).SerializeToString()
        secret = b"Bearer the-secret-of-a-caller\xa0"
        async with raw_call(address, "/jobgateway.v1.JobService/GetJob", request, [(b"authorization", secret)]) as call:
            assert (await call.end()).code == grpc.StatusCode.UNAUTHENTICATED.value[0]
        server.signal(signal.SIGTERM)
        assert await server.end() == 0
    assert "the-secret" not in json.dumps(server.lines)
    assert not any("exception" in line for line in server.lines)


async def test_the_number_of_health_watches_is_limited(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_WATCHES", 2)
    request = health_pb2.HealthCheckRequest()
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        service: Any = health_pb2_grpc.HealthStub(channel)
        watches = [service.Watch(request) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.Watch(request).read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await service.Check(request)).status == SERVING
        watches[0].cancel()
        async with asyncio.timeout(PATIENT):
            while True:
                # The server notices it a moment later.
                with contextlib.suppress(grpc.aio.AioRpcError):
                    assert (await service.Watch(request).read()).status == SERVING
                    break
