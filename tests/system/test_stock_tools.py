"""Stock tools at a running gateway: grpcurl for a person, grpc_health_probe for Kubernetes, ghz for load."""

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
    """The exit code of a tool and what it wrote; skips where the tool is missing, except in CI."""
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
    code, said = await run(*call, stack.target, f"{JOB_SERVICE_NAME}/GetJob")
    assert code == 64 + 5  # NOT_FOUND, as grpcurl tells it
    assert '"reason": "UPSTREAM_NOT_FOUND"' in said
    assert "google.rpc.ResourceInfo" in said


@pytest.mark.parametrize("service", ["", JOB_SERVICE_NAME])
async def test_the_health_probe_reports_serving(stack: Stack, service: str) -> None:
    code, said = await run("grpc_health_probe", f"-addr={stack.target}", f"-service={service}")
    assert (code, "SERVING" in said) == (0, True), said


async def test_the_health_probe_fails_for_an_unknown_service(stack: Stack) -> None:
    code, said = await run("grpc_health_probe", f"-addr={stack.target}", "-service=no.such.Service")
    assert code not in (0, None)
    assert "NOT_FOUND" in said or "NotFound" in said or "unknown service" in said, said


async def load(stack: Stack, method: str, request: dict[str, Any]) -> dict[str, int]:
    """How many calls of ghz ended with which code; it reads the contract by reflection."""
    call = ("--call", f"{JOB_SERVICE_NAME}.{method}", "--metadata", json.dumps({"authorization": f"Bearer {TOKEN}"}))
    size = ("--total", str(CALLS), "--concurrency", "20", "--connections", "2")
    code, said = await run(
        "ghz", "--insecure", *call, *size, "--data", json.dumps(request), "--format", "json", stack.target
    )
    assert code == 0, said
    ended: dict[str, int] = json.loads(said)["statusCodeDistribution"]
    return ended


async def test_ghz_sends_jobs_and_reads_one(stack: Stack) -> None:
    job = {"workspaceId": "1", "entityId": "7", "methodName": "never", "requestId": "{{.UUID}}"}
    assert await load(stack, "SendJob", job) == {"OK": CALLS}
    assert sum(each.method == "POST" for each in stack.simulator.requests) == CALLS
    assert await load(stack, "GetJob", {"uid": "1000001"}) == {"OK": CALLS}
