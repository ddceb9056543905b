"""`doctor` behind a real Envoy, nginx and HAProxy, with the configurations of `deploy/proxies` and planted faults.

The limits of time are real, because the proxies measure them. The judgement follows from which streams end, not when.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from clients.mesh.proxies import PROXIES, Envoy, Faults, HAProxy, Nginx, Proxy
from tests.support.certificates import MountedSecret
from tests.support.doctoring import Diagnosis, doctor
from tests.support.gateways import running
from tests.support.raw import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.simulator import Simulator

pytestmark = [pytest.mark.tools, pytest.mark.slow]

# A heartbeat comes every second, so a gateway may be late by three.
IDLE_SECONDS = 4
DESCRIBED = {
    Envoy: "Envoy is in between",
    Nginx: "nginx is in between",
    HAProxy: "HAProxy is probably in between",
}
NAMES = {Envoy: "Envoy", Nginx: "nginx", HAProxy: "a proxy, probably HAProxy,"}


class Place:
    """An address for a proxy to connect to."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.address = host, int(port)


@asynccontextmanager
async def behind(kind: type[Proxy], simulator: Simulator, **faults: Any) -> AsyncIterator[str]:
    """Run a gateway and a proxy in front of it, and yield the address of the proxy."""
    if kind.missing():
        assert not os.environ.get("CI"), f"{kind.program} is missing"
        pytest.skip(f"{kind.program} is not installed")
    async with (
        running(simulator.url) as gateway,
        kind([Place(gateway.address)], Faults(health_checks=False, **faults)) as proxy,
    ):
        yield proxy.target


async def diagnosis(kind: type[Proxy], simulator: Simulator, hold: float = 0, **faults: Any) -> Diagnosis:
    async with behind(kind, simulator, **faults) as target:
        return await doctor(target, hold=hold)


@pytest.mark.parametrize("kind", PROXIES)
async def test_a_recommended_configuration_passes_each_check(kind: type[Proxy], simulator: Simulator) -> None:
    found = await diagnosis(kind, simulator, hold=1)
    assert (found.code, found.failed) == (0, [])
    assert found["gateway"] == f"ok a Job Gateway responds; {DESCRIBED[kind]}"


# Fault 5: a limit of whole calls.


async def test_the_route_timeout_of_envoy_is_found(simulator: Simulator) -> None:
    found = await diagnosis(Envoy, simulator, hold=600, lifetime_seconds=2)
    assert (found.code, found.failed) == (3, ["silence"])
    assert found.is_documented("silence")
    assert found["silence"].startswith("fail Envoy ends calls after 2.")
    assert found["silence"].endswith("counted from the end of the request: a limit of whole calls")
    assert found.paste("silence") == ["timeout: 0s  # in the route"]


# Fault 6: a limit of silence.


@pytest.mark.parametrize(
    ("kind", "setting"),
    [(Envoy, "stream_idle_timeout: 150s"), (Nginx, "grpc_read_timeout 150s;"), (HAProxy, "timeout server 150s")],
)
async def test_an_idle_timeout_is_found(kind: type[Proxy], setting: str, simulator: Simulator) -> None:
    found = await diagnosis(kind, simulator, hold=600, idle_seconds=IDLE_SECONDS)
    assert (found.code, found.failed) == (3, ["silence"])
    assert kind is not Nginx or found.is_documented("silence")
    assert found["silence"].startswith(f"fail {NAMES[kind]} ends streams that are silent for ")
    assert "one with a message per second went on" in found["silence"]
    assert setting in " ".join(found.paste("silence"))


# Fault 7: few calls at a time.


@pytest.mark.parametrize("limit", [1, 4])
async def test_a_low_limit_of_streams_is_found(limit: int, simulator: Simulator) -> None:
    found = await diagnosis(Envoy, simulator, max_streams=limit)
    assert (found.code, found.failed) == (3, ["streams"])
    assert found.is_documented("streams")
    assert found["streams"].startswith(f"fail Envoy allows {limit} calls at a time on a connection")
    assert found.paste("streams")[0].startswith("max_concurrent_streams: 1024")


# Fault 8: no gateway behind the proxy, or none that speaks gRPC.


@pytest.mark.parametrize(
    ("kind", "said"), [(Envoy, "grpc-status 14"), (Nginx, "HTTP 502, '502 Bad Gateway'"), (HAProxy, "HTTP 503")]
)
async def test_a_proxy_without_a_gateway_is_found(kind: type[Proxy], said: str) -> None:
    if kind.missing():
        assert not os.environ.get("CI"), f"{kind.program} is missing"
        pytest.skip(f"{kind.program} is not installed")
    async with kind([Place(f"127.0.0.1:{free_port()}")], Faults(health_checks=False)) as proxy:
        found = await doctor(proxy.target)
    assert (found.code, found.failed) == (3, ["gateway"])
    assert kind is not Nginx or found.is_documented("gateway")
    assert found["gateway"].startswith(f"fail {NAMES[kind]} reaches no gateway behind it: {said}")


class BufferingEnvoy(Envoy):
    """Envoy with a filter that reads the whole response before it passes the headers on."""

    def _break(self, manager: dict[str, Any]) -> None:
        super()._break(manager)
        lua = {
            "name": "envoy.filters.http.lua",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                "default_source_code": {"inline_string": "function envoy_on_response(r) r:body() end"},
            },
        }
        manager["http_filters"].insert(0, lua)


async def test_a_proxy_that_buffers_responses_is_found(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    async with behind(BufferingEnvoy, simulator) as target:
        # It decides when a response counts as missing.
        monkeypatch.setattr("gateway.cli.doctor.service.RESPONSE_SECONDS", 5.0)
        found = await doctor(target, hold=600)
    assert (found.code, found.failed) == (3, ["buffering"])
    assert found.is_documented("buffering")
    assert "Envoy holds responses back until they end" in found["buffering"]
    assert found["silence"] == "skip needs buffering"


class OtherNginx(Nginx):
    """nginx with other lines in its configuration."""

    changes: tuple[tuple[str, str], ...] = ()

    def configuration(self) -> str:
        """See `Proxy`."""
        text = super().configuration()
        for before, after in self.changes:
            assert before in text
            text = text.replace(before, after)
        return text


class Http1Nginx(OtherNginx):
    """nginx without HTTP/2."""

    changes = ((" http2;", ";"),)


async def test_a_proxy_without_http2_is_found(simulator: Simulator) -> None:
    async with behind(Http1Nginx, simulator) as target:
        found = await doctor(target)
    assert found.failed == ["http2"]
    assert found.is_documented("http2")
    assert "the server (nginx/" in found["http2"]
    assert "responds with HTTP/1.1 400 Bad Request, not with HTTP/2" in found["http2"]


class ProxyPassNginx(OtherNginx):
    """nginx that passes calls on with HTTP/1.1."""

    changes = (("grpc_pass grpc://jobgateway;", "proxy_pass http://jobgateway;"),)


async def test_a_proxy_that_passes_http1_on_is_found(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    async with behind(ProxyPassNginx, simulator) as target:
        # The gateway may wait for more bytes.
        monkeypatch.setattr("gateway.cli.doctor.service.RESPONSE_SECONDS", 3.0)
        found = await doctor(target)
    assert found.failed == ["gateway"]
    assert "nginx" in found["gateway"]


class SmallNginx(OtherNginx):
    """nginx with its default sizes."""

    changes = (("client_max_body_size 48m;", ""),)


class ShortNginx(OtherNginx):
    """nginx with its default size of headers."""

    changes = (("large_client_header_buffers 4 16k;", "large_client_header_buffers 4 4k;"),)


@pytest.mark.parametrize(
    ("kind", "setting"), [(SmallNginx, "client_max_body_size 48m;"), (ShortNginx, "large_client_header_buffers 4 16k;")]
)
async def test_a_low_limit_of_sizes_is_found(kind: type[Nginx], setting: str, simulator: Simulator) -> None:
    async with behind(kind, simulator) as target:
        found = await doctor(target)
    assert (found.code, found.failed) == (3, ["sizes"])
    assert found.paste("sizes")[0].startswith(setting)


async def test_tls_without_http2_is_found(simulator: Simulator, mounted: MountedSecret) -> None:
    class OldNginx(OtherNginx):
        changes = ((" http2;", f" ssl; ssl_certificate {mounted.cert}; ssl_certificate_key {mounted.key};"),)

    async with behind(OldNginx, simulator) as target:
        found = await doctor(target, "--ca-file", mounted.ca)
    assert found.failed == ["tls"]
    assert found["tls"] == "fail the server does not offer HTTP/2 (h2) by ALPN, so gRPC clients refuse it"


async def test_nginx_that_requires_a_certificate_is_found(simulator: Simulator, mounted: MountedSecret) -> None:
    """It agrees on TLS, and says so in a page."""

    class StrictNginx(OtherNginx):
        changes = (
            (
                " http2;",
                f" ssl http2; ssl_certificate {mounted.cert}; ssl_certificate_key {mounted.key}; "
                f"ssl_verify_client on; ssl_client_certificate {mounted.ca};",
            ),
        )

    async with behind(StrictNginx, simulator) as target:
        found = await doctor(target, "--ca-file", mounted.ca)
    assert found.failed == ["gateway"]
    assert found["gateway"].startswith("fail nginx requires a client certificate (mTLS): HTTP 400, ")
    assert "No required SSL certificate was sent" in found["gateway"]
