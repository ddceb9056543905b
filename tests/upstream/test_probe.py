"""The probe of the upstream at the start, and its line in the log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.telemetry.jobs import ObservedJobs
from gateway.telemetry.metrics import Metrics
from gateway.threads import WorkerPool
from gateway.upstream import RestClient, probe
from tests.support.clock import SteppedClock, settle
from tests.support.gateways import running
from tests.support.raw import free_port
from tests.support.transports import upstream_health
from tests.support.upstream import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.simulator import Simulator
    from tests.support.transports import MakeTransport
    from tests.support.upstream import ScriptedUpstream

ADDRESS = "check the scheme, host and path in JOBGATEWAY_UPSTREAM_URL"
EXPECTED = f"but a request without a credential should get HTTP 401 with a JSON object; {ADDRESS}"
HTML = b"<html>Welcome</html>"


@pytest.fixture
def client(make: MakeTransport) -> Callable[[str], RestClient]:
    """Make a client of the upstream at a URL."""
    return lambda url: RestClient(
        url,
        submissions=make(),
        reads=make(),
        now=lambda: 0.0,
        observer=ObservedJobs(Metrics()),
        workers=WorkerPool("responses", 1),
        health=upstream_health(SteppedClock()),
    )


@pytest.mark.parametrize(
    ("reply", "result", "cause", "message"),
    [
        (answer(401, {"detail": "no"}), "api", "HTTP 401", "the upstream responds like the API"),
        (answer(403, {}), "api", "HTTP 403", "the upstream responds like the API"),
        (answer(429, {}), "api", "HTTP 429", "the upstream responds like the API"),
        (answer(404, {}), "not_api", "HTTP 404", f"the upstream responds with HTTP 404, {EXPECTED}"),
        (
            answer(404, raw=HTML),
            "not_api",
            "HTTP 404 without a JSON object",
            f"the upstream responds with HTTP 404 without a JSON object, {EXPECTED}",
        ),
        (
            answer(401, raw=HTML),
            "not_api",
            "HTTP 401 without a JSON object",
            f"the upstream responds with HTTP 401 without a JSON object, {EXPECTED}",
        ),
        (answer(200, raw=HTML), "not_api", "HTTP 200", f"the upstream responds with HTTP 200, {EXPECTED}"),
        (answer(200, {"uid": 0}), "not_api", "HTTP 200", f"the upstream responds with HTTP 200, {EXPECTED}"),
        (
            answer(302, headers={"Location": "https://elsewhere.test/login"}),
            "not_api",
            "the upstream responded with a redirect (HTTP 302), which is not followed",
            f"the upstream responded with a redirect (HTTP 302), which is not followed; {ADDRESS}",
        ),
        (
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            "not_api",
            "the upstream's response is not valid HTTP",
            "the upstream's response is not valid HTTP",
        ),
        (
            answer(503, raw=HTML),
            "failing",
            "HTTP 503",
            "the upstream responds with HTTP 503",
        ),
    ],
    ids=lambda value: value.decode()[:30] if isinstance(value, bytes) else "",
)
async def test_the_response_without_credential_is_judged(
    client: Callable[[str], RestClient],
    upstream: ScriptedUpstream,
    logged: list[Any],
    reply: bytes,
    result: str,
    cause: str,
    message: str,
) -> None:
    upstream.probe = reply
    await probe(client(upstream.url))
    level = "info" if result == "api" else "warning"
    line = {"event": "upstream.probed", "log_level": level, "result": result, "cause": cause, "message": message}
    assert logged == [line]
    assert upstream.probes == 1, "without a credential"


async def test_a_simulator_looks_like_the_api(
    client: Callable[[str], RestClient], simulator: Simulator, logged: list[Any]
) -> None:
    await probe(client(simulator.url))
    assert [line["result"] for line in logged if line["event"] == "upstream.probed"] == ["api"]
    logged.clear()
    await probe(client(simulator.url.removesuffix("/api") + "/other"))
    assert [line["result"] for line in logged if line["event"] == "upstream.probed"] == ["not_api"]


async def test_an_upstream_that_is_not_there_has_a_cause(
    client: Callable[[str], RestClient], logged: list[Any]
) -> None:
    await probe(client(f"http://127.0.0.1:{free_port()}/api"))
    (line,) = logged
    assert (line["result"], line["cause"]) == ("unreachable", "Connection refused")
    assert "check host and port in JOBGATEWAY_UPSTREAM_URL" in line["message"]


async def test_a_defect_of_the_probe_is_reported_at_once(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: RestClient) -> int:
        raise KeyError

    monkeypatch.setattr(RestClient, "get_without_credential", broken)
    defects: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(type(context["exception"])))
    async with running(upstream.url) as gateway:
        gateway.probe_upstream()
        await settle()
        assert defects == [KeyError]


async def test_a_stop_waits_for_the_end_of_the_probe(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []

    async def slow(_: RestClient) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            for __ in range(100):
                await asyncio.sleep(0)
            ends.append("probe")
        return 401

    close = RestClient.aclose

    async def closing(rest: RestClient) -> None:
        ends.append("client")
        await close(rest)

    monkeypatch.setattr(RestClient, "get_without_credential", slow)
    monkeypatch.setattr(RestClient, "aclose", closing)
    async with running(upstream.url) as gateway:
        gateway.probe_upstream()
        await asyncio.sleep(0)
    assert ends == ["probe", "client"]
