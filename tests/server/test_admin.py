"""The admin address: its pages, and when each of them responds."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from jobgateway.v1 import job_service_pb2 as pb

from gateway.config import Settings
from gateway.server.gateway import Gateway
from tests.support.gateways import BEARER, running, stub
from tests.support.raw import free_port
from tests.support.scraping import fetch

if TYPE_CHECKING:
    from tests.support.upstream import Connection, ScriptedUpstream

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


async def test_it_is_alive_and_ready_while_it_serves(gateway: Gateway) -> None:
    for path in ("/livez", "/readyz"):
        response = await fetch(gateway, path)
        assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")


async def test_an_upstream_that_is_down_does_not_make_it_unready() -> None:
    async with running(f"http://127.0.0.1:{free_port()}") as gateway, stub(gateway) as jobs:
        with pytest.raises(grpc.aio.AioRpcError):
            await jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
        assert (await fetch(gateway, "/readyz")).status_code == 200


async def test_a_drain_is_alive_not_ready_and_can_be_scraped(upstream: ScriptedUpstream) -> None:
    async def hang(connection: Connection) -> None:
        await connection.gone()

    upstream.script.append(hang)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        call = jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
        await upstream.wait_for(1)
        stopping = asyncio.create_task(gateway.stop(grace=30))
        await asyncio.sleep(0)
        assert (await fetch(gateway, "/readyz")).status_code == 503
        assert (await fetch(gateway, "/livez")).status_code == 200
        assert "jobgateway_draining 1.0" in (await fetch(gateway, "/metrics")).text
        call.cancel()
        await stopping
        with pytest.raises(httpx.ConnectError):
            await fetch(gateway, "/livez")


async def test_it_is_not_ready_before_grpc_is_served(upstream: ScriptedUpstream) -> None:
    gateway = Gateway(Settings(upstream_url=upstream.url, listen="127.0.0.1:0", admin_listen="127.0.0.1:0"))
    before = gateway.ready
    await gateway.start()
    during = gateway.ready
    await gateway.stop(0)
    assert (before, during, gateway.ready) == (False, True, False)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(
            ("GET", path)
            for path in (
                "/x",
                "/statusz/",
                "/metrics/",
                "/livez/x",
                "/debug",
                "/debug/pprof",
                "/%2e%2e/etc/passwd",
                "//",
            )
        ),
        *(
            (method, path)
            for path in ("/", "/metrics")
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")
        ),
    ],
)
async def test_other_paths_and_methods_are_not_found(gateway: Gateway, method: str, path: str) -> None:
    response = await fetch(gateway, path, method=method)
    assert (response.status_code, response.text) == (404, "not found\n")


async def test_metrics_have_the_requested_format(gateway: Gateway) -> None:
    plain = await fetch(gateway, "/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    modern = await fetch(gateway, "/metrics", headers={"accept": OPENMETRICS})
    assert modern.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert modern.text.endswith("# EOF\n")


async def test_the_server_header_has_no_versions(gateway: Gateway) -> None:
    for path in ("/livez", "/nothing"):
        assert (await fetch(gateway, path)).headers["server"] == "jobgateway"


async def test_a_taken_address_stops_the_start_with_its_variable(upstream: ScriptedUpstream) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        gateway = Gateway(Settings(upstream_url=upstream.url, listen="127.0.0.1:0", admin_listen=listen))
        with pytest.raises(
            OSError, match=f"^JOBGATEWAY_ADMIN_LISTEN: {listen} cannot be bound: Address already in use"
        ):
            await gateway.start()
        await gateway.stop(0)


async def test_frees_the_admin_address_if_grpc_cannot_start(upstream: ScriptedUpstream) -> None:
    admin = f"127.0.0.1:{free_port()}"
    async with running(upstream.url) as first:
        second = Gateway(Settings(upstream_url=upstream.url, listen=first.address, admin_listen=admin))
        with pytest.raises(OSError, match="JOBGATEWAY_LISTEN"):
            await second.start()
    async with running(upstream.url, admin_listen=admin) as third:
        assert (await fetch(third, "/readyz")).status_code == 200


async def test_two_gateways_in_one_process_count_apart(upstream: ScriptedUpstream) -> None:
    async with running(upstream.url) as one, running(upstream.url) as other, stub(one) as jobs:
        with pytest.raises(grpc.aio.AioRpcError):
            await jobs.GetJob(pb.GetJobRequest(uid=42))
        started = (
            'grpc_server_started_total{grpc_method="GetJob",grpc_service="jobgateway.v1.JobService",grpc_type="unary"}'
        )
        assert f"{started} 1.0" in (await fetch(one, "/metrics")).text
        assert f"{started} 0.0" in (await fetch(other, "/metrics")).text


@pytest.mark.parametrize("on", [True, False])
async def test_reflection_can_be_switched_off(upstream: ScriptedUpstream, *, on: bool) -> None:
    async with running(upstream.url, reflection=on) as gateway, grpc.aio.insecure_channel(gateway.address) as channel:
        service: Any = ServerReflectionStub(channel)  # type: ignore[arg-type]
        call = service.ServerReflectionInfo(iter([ServerReflectionRequest(list_services="")]))
        if on:
            assert len([each async for each in call]) == 1
        else:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                [each async for each in call]
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
