"""Standard tools with a running gateway: grpcurl, grpc_health_probe and ghz."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from clients.runner.scenarios import Scenario
from clients.runner.stack import TOKEN, Stack

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.tools

JOB_SERVICE_NAME = "jobgateway.v1.JobService"
BEARER = f"authorization: Bearer {TOKEN}"
CALLS = 200


@pytest_asyncio.fixture
async def stack() -> AsyncIterator[Stack]:
    async with Stack(Scenario(name="stock_tools", about="", steps=[], expect=[])) as running:
        yield running


async def run(*command: str) -> tuple[int | None, str]:
    """Run a tool, and return its exit code and output. Skip the test if the tool is missing, except in CI."""
    if not shutil.which(command[0]):
        assert not os.environ.get("CI"), f"{command[0]} is missing"
        pytest.skip(f"{command[0]} is not on the PATH")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_grpcurl_lists_and_describes_the_services(stack: Stack) -> None:
    code, listed = await run("grpcurl", "-plaintext", stack.target, "list")
    assert code == 0
    assert listed.split() == ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", JOB_SERVICE_NAME]
    code, described = await run("grpcurl", "-plaintext", stack.target, "describe", JOB_SERVICE_NAME)
    assert code == 0
    assert "rpc WatchJob ( .jobgateway.v1.WatchJobRequest ) returns ( stream .jobgateway.v1.JobEvent );" in described


async def test_grpcurl_describes_one_method(stack: Stack) -> None:
    code, described = await run("grpcurl", "-plaintext", stack.target, "describe", f"{JOB_SERVICE_NAME}.GetJob")
    assert code == 0, described
    assert "rpc GetJob ( .jobgateway.v1.GetJobRequest ) returns ( .jobgateway.v1.Job );" in described


async def test_grpcurl_shows_an_error_with_its_details(stack: Stack) -> None:
    call = ("grpcurl", "-plaintext", "-H", BEARER, "-d", '{"uid": "12345"}')
    code, output = await run(*call, stack.target, f"{JOB_SERVICE_NAME}/GetJob")
    assert code == 64 + 5  # NOT_FOUND as an exit code of grpcurl
    assert '"reason": "UPSTREAM_NOT_FOUND"' in output
    assert "google.rpc.ResourceInfo" in output


@pytest.mark.parametrize("service", ["", JOB_SERVICE_NAME])
async def test_the_health_probe_reports_serving(stack: Stack, service: str) -> None:
    code, output = await run("grpc_health_probe", f"-addr={stack.target}", f"-service={service}")
    assert (code, "SERVING" in output) == (0, True), output


async def test_the_health_probe_fails_for_an_unknown_service(stack: Stack) -> None:
    code, output = await run("grpc_health_probe", f"-addr={stack.target}", "-service=no.such.Service")
    assert code not in (0, None)
    assert "NOT_FOUND" in output or "NotFound" in output or "unknown service" in output, output


async def load(stack: Stack, method: str, request: dict[str, Any]) -> dict[str, int]:
    """Make calls with ghz, which uses reflection, and return how many ended with each code."""
    call = ("--call", f"{JOB_SERVICE_NAME}.{method}", "--metadata", json.dumps({"authorization": f"Bearer {TOKEN}"}))
    size = ("--total", str(CALLS), "--concurrency", "20", "--connections", "2")
    code, output = await run(
        "ghz", "--insecure", *call, *size, "--data", json.dumps(request), "--format", "json", stack.target
    )
    assert code == 0, output
    ended: dict[str, int] = json.loads(output)["statusCodeDistribution"]
    return ended


async def test_ghz_sends_jobs_and_reads_one(stack: Stack) -> None:
    job = {"workspaceId": "1", "entityId": "7", "methodName": "never", "requestId": "{{.UUID}}"}
    assert await load(stack, "SendJob", job) == {"OK": CALLS}
    assert sum(each.method == "POST" for each in stack.simulator.requests) == CALLS
    assert await load(stack, "GetJob", {"uid": "1000001"}) == {"OK": CALLS}
