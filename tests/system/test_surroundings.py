"""A gateway process with a log that is not read or cannot be stored, or without standard streams."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway.v1 import job_service_pb2_grpc as rpc

from tests.support.gateways import BEARER, SEND
from tests.support.paths import ROOT
from tests.support.raw import free_port
from tests.support.scraping import Scrape
from tests.support.upstream import answer, hang

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from tests.support.upstream import ScriptedUpstream

pytestmark = pytest.mark.slow

SERVE = (sys.executable, "-m", "gateway", "serve")
LOST = "jobgateway_log_lines_lost_total"
TEST_SECONDS = 60.0


class Process:
    """A process of `jobgateway serve` that is found by its addresses, not by its log."""

    def __init__(self, child: asyncio.subprocess.Process, address: str, admin: str) -> None:
        self.child = child
        self.address = address
        self.admin = admin

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=TEST_SECONDS) as client:
            return await client.get(f"http://{self.admin}{path}")

    async def end(self) -> int:
        async with asyncio.timeout(TEST_SECONDS):
            return await self.child.wait()


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JOBGATEWAY_", "OTEL_"))}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **{f"JOBGATEWAY_{key.upper()}": settings[key] for key in settings}}


@asynccontextmanager
async def serving(
    upstream: ScriptedUpstream,
    stderr: int,
    command: Sequence[str] = SERVE,
    prepare: Callable[[], None] | None = None,
    **settings: str,
) -> AsyncIterator[tuple[Process, rpc.JobServiceAsyncStub]]:
    """Start a process, wait until it accepts calls, and return it with a stub."""
    address, admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=environment(upstream_url=upstream.url, listen=address, admin_listen=admin, **settings),
        stderr=stderr,
        preexec_fn=prepare,
    )
    try:
        async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(TEST_SECONDS):
            await channel.channel_ready()
            yield Process(child, address, admin), rpc.JobServiceStub(channel)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()


@pytest.fixture
def blocked() -> Iterator[int]:
    """Return the write end of a full pipe that no one reads."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, bytes(4096))
    yield writer
    os.close(reader)
    os.close(writer)


async def test_no_call_waits_for_a_reader_of_the_log(upstream: ScriptedUpstream, blocked: int) -> None:
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    async with serving(upstream, blocked) as (process, jobs):
        for _ in range(50):
            assert (await jobs.SendJob(SEND, metadata=BEARER)).uid == 42
        assert (await process.get("/readyz")).status_code == 200
        process.child.send_signal(signal.SIGTERM)
        assert await process.end() == 0


async def test_a_second_signal_exits_while_no_one_reads_the_log(upstream: ScriptedUpstream, blocked: int) -> None:
    upstream.script.append(hang)
    async with serving(upstream, blocked, drain_grace_seconds="3600") as (process, jobs):
        call: Any = jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
        await upstream.wait_for(1)
        process.child.send_signal(signal.SIGTERM)
        while (await process.get("/readyz")).status_code != 503:
            pass
        process.child.send_signal(signal.SIGTERM)
        assert await process.end() == 1
        with pytest.raises(grpc.aio.AioRpcError):
            await call


def no_file_may_grow() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.parametrize("log", ["full disk", "reader gone", "file size limit"])
async def test_a_log_that_cannot_be_written_is_counted(upstream: ScriptedUpstream, tmp_path: Path, log: str) -> None:
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    upstream.on("GET", "/jobs/42/", answer(200, {"uid": 42, "status": "success"}))
    if log == "reader gone":
        reader, stderr = os.pipe()
        os.close(reader)
    else:
        path = Path("/dev/full") if log == "full disk" else tmp_path / "log"
        stderr = os.open(path, os.O_WRONLY | os.O_CREAT)
    prepare = no_file_may_grow if log == "file size limit" else None
    try:
        async with serving(upstream, stderr, prepare=prepare) as (process, jobs):
            assert (await jobs.SendJob(SEND, metadata=BEARER)).uid == 42
            stream: Any = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
            assert [event.job.done async for event in stream][-1]
            assert (await process.get("/readyz")).status_code == 200
            while Scrape((await process.get("/metrics")).text)(LOST) < 3:
                pass
            process.child.send_signal(signal.SIGTERM)
            assert await process.end() == 0
    finally:
        os.close(stderr)


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
async def test_a_process_without_standard_streams_serves(upstream: ScriptedUpstream, closed: str) -> None:
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    command = ("sh", "-c", f'exec "$@" {" ".join(f"{fd}>&-" for fd in closed)}', "sh", *SERVE)
    async with serving(upstream, subprocess.DEVNULL, command) as (process, jobs):
        assert (await jobs.SendJob(SEND, metadata=BEARER)).uid == 42
        process.child.send_signal(signal.SIGTERM)
        assert await process.end() == 0


async def test_a_hangup_drains(upstream: ScriptedUpstream) -> None:
    async with serving(upstream, subprocess.DEVNULL) as (process, _):
        process.child.send_signal(signal.SIGHUP)
        assert await process.end() == 0


async def test_a_hangup_is_ignored_under_nohup(upstream: ScriptedUpstream) -> None:
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))

    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async with serving(upstream, subprocess.DEVNULL, prepare=nohup) as (process, jobs):
        process.child.send_signal(signal.SIGHUP)
        assert (await jobs.SendJob(SEND, metadata=BEARER)).uid == 42
        process.child.send_signal(signal.SIGTERM)
        assert await process.end() == 0


@pytest.mark.parametrize("number", [signal.SIGPIPE, signal.SIGXFSZ])
async def test_signals_about_output_are_ignored(upstream: ScriptedUpstream, number: signal.Signals) -> None:
    upstream.on("POST", "/workspaces/1/entities/7/jobs/", answer(201, {"uid": 42}))
    async with serving(upstream, subprocess.DEVNULL) as (process, jobs):
        process.child.send_signal(number)
        assert (await jobs.SendJob(SEND, metadata=BEARER)).uid == 42
        process.child.send_signal(signal.SIGTERM)
        assert await process.end() == 0


@pytest.mark.parametrize("stderr", ["full", "blocked"])
async def test_a_failed_start_exits_even_if_it_cannot_log(blocked: int, stderr: str) -> None:
    fd = os.open("/dev/full", os.O_WRONLY) if stderr == "full" else os.dup(blocked)
    settings = environment(upstream_url="http://127.0.0.1:1", max_calls="many")
    try:
        child = await asyncio.create_subprocess_exec(*SERVE, cwd=ROOT, env=settings, stderr=fd)
        assert await child.wait() == 2
    finally:
        os.close(fd)
