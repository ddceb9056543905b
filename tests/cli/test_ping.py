"""`ping` against a real gateway."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

from gateway.cli.doctor.service import SERVICE
from tests.cli.test_tls import invoke
from tests.support.certificates import Authority
from tests.support.gateways import running
from tests.support.upstream import answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.server.gateway import Gateway
    from tests.support.certificates import MountedSecret
    from tests.support.upstream import ScriptedUpstream


async def test_a_ping_needs_no_credential(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    result = await invoke("ping", "--target", gateway.address, token=None)
    assert result.exit_code == 0, result.stderr
    line = rf"{gateway.address} serves; round trip \d+\.\d ms, connected in \d+\.\d ms; no credential given\n"
    assert re.fullmatch(line, result.stdout)
    assert upstream.seen == []


async def test_a_ping_as_json_is_one_object(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.script.append(answer(404, {"detail": "Not found."}))
    result = await invoke("ping", "--target", gateway.address, "-o", "json")
    shown = json.loads(result.stdout)
    assert result.exit_code == 0, result.stderr
    assert shown.pop("round_trip_seconds") > 0
    assert shown.pop("connect_seconds") > 0
    assert shown == {"target": gateway.address, "credential": "accepted"}


async def test_a_credential_that_is_rejected_is_exit_code_6(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.script += [answer(401, {"detail": "Invalid token."})] * 2
    result = await invoke("ping", "--target", gateway.address, "-o", "json")
    error = json.loads(result.stdout)["error"]
    # The uid of the job that `ping` reads is none of this person's.
    assert (result.exit_code, error["code"], error["uid"]) == (6, "UNAUTHENTICATED", None)
    assert "put a valid token into JOBGATEWAY_TOKEN" in result.stderr


async def test_a_ping_over_tls_names_a_rejected_certificate(
    upstream: ScriptedUpstream, mounted: MountedSecret, client: MountedSecret
) -> None:
    settings = {"tls_cert_file": mounted.cert, "tls_key_file": mounted.key, "tls_client_ca_file": mounted.ca}
    shown = ("--ca-file", mounted.ca, "--cert-file", client.cert, "--key-file", client.key)
    async with running(upstream.url, **settings) as gateway:
        upstream.script.append(answer(404, {"detail": "Not found."}))
        accepted = await invoke("ping", "--target", gateway.address, *shown)
        anonymous = await invoke("ping", "--target", gateway.address, *shown, token=None)
        client.put(Authority().client("stranger"))
        rejected = await invoke("ping", "--target", gateway.address, *shown)
    assert accepted.exit_code == 0, accepted.stderr
    assert anonymous.stdout.endswith("no credential given\n")
    assert rejected.exit_code == 6
    assert "rejected the client certificate" in rejected.stderr


@asynccontextmanager
async def health_server(status: int | None = None) -> AsyncIterator[str]:
    """Serve nothing but the health service, and yield the address."""
    server, servicer = grpc.aio.server(), health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    if status is not None:
        await servicer.set(SERVICE, status)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_a_gateway_that_drains_is_exit_code_8() -> None:
    async with health_server(HealthCheckResponse.NOT_SERVING) as target:
        result = await invoke("ping", "--target", target, token=None)
    assert result.exit_code == 8
    assert result.stderr == (
        f"{target} is shutting down and accepts no calls; try again later [UNAVAILABLE, DRAINING]\n"
    )


async def test_a_server_that_is_no_gateway_is_named() -> None:
    async with health_server() as target:
        result = await invoke("ping", "--target", target, "-o", "json", token=None)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"{target} has no {SERVICE}; is this the address of a Job Gateway?")
    assert json.loads(result.stdout)["error"]["code"] == "UNIMPLEMENTED"


async def test_no_gateway_is_exit_code_8() -> None:
    result = await invoke("ping", "--target", "127.0.0.1:1", token=None)
    assert result.exit_code == 8
    assert "127.0.0.1:1 cannot be reached (Connection refused)" in result.stderr
