"""The status page of a running gateway, as HTML and as JSON."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jobgateway.v1 import job_service_pb2 as pb

from gateway.auth.credential import FINGERPRINT_DIGITS
from tests.support.clock import SteppedClock
from tests.support.gateways import BEARER, SEND, TOKEN, next_event, running, stub
from tests.support.raw import free_port
from tests.support.scraping import fetch
from tests.support.upstream import answer

if TYPE_CHECKING:
    from gateway.server.gateway import Gateway
    from tests.support.certificates import MountedSecret
    from tests.support.upstream import Connection, ScriptedUpstream

SECRETS = ("a-secret-workspace", "a-secret-parameter", "a secret message", "a secret result", "a secret error")
SLOW_POLLS = {"poll_interval_min_seconds": 3_000.0, "poll_interval_max_seconds": 3_000.0}


async def status(gateway: Gateway, query: str = "") -> Any:
    response = await fetch(gateway, f"/statusz{query}")
    assert response.status_code == 200, response.text
    return json.loads(response.text)


async def hang(connection: Connection) -> None:
    await connection.gone()


async def test_an_idle_gateway_is_well(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    shown = await status(gateway)
    assert shown["problems"] == []
    process = shown["process"]
    assert (process["ready"], process["draining"], process["address"]) == (True, False, gateway.address)
    assert process["admin_address"] == gateway.admin_address
    assert shown["store"] == {"kind": "memory", "available": True}
    assert shown["tls"] == {"mode": "plaintext", "certificate": None}
    assert shown["upstream"]["url"] == upstream.url
    assert shown["watched"] | {"rows": None} == {
        **dict.fromkeys(("jobs", "watchers", "failing", "matching"), 0),
        "page": 1,
        "pages": 1,
        "rows": None,
    }
    page = (await fetch(gateway, "/")).text
    assert "All is well." in page


async def test_a_watched_job_has_a_row_for_all_its_watchers(upstream: ScriptedUpstream) -> None:
    message = {"message": "a secret message", "percentage": 40}
    upstream.script.append(answer(200, {"uid": 42, "status": "running", "message": message}))
    async with running(upstream.url, **SLOW_POLLS) as gateway, stub(gateway) as jobs:
        streams = [jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER) for _ in range(3)]
        for stream in streams:
            await next_event(stream)
        shown = await status(gateway)
        (row,) = shown["watched"]["rows"]
        assert (row["uid"], row["status"], row["progress"], row["watchers"]) == (42, "RUNNING", 40, 3)
        assert row["next_read_seconds"] > 2_000
        (client,) = row["clients"]
        assert re.fullmatch(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}", client)
        assert shown["clients"] == [
            {"client": client, "watches": 3, "calls": 0, "submissions": 0, "polls": 0, "large_bytes": 0}
        ]
        reads = {each["minutes"]: each["figures"] for each in shown["upstream"]["recent"][:3]}
        assert [reads[minutes]["succeeded"] for minutes in (1, 5, 15)] == [1, 1, 1]
        html = (await fetch(gateway, f"/?client={client}&status=RUNNING")).text
        assert f">{client}<" in html
        assert "40 %" in html


async def test_a_failing_job_has_its_reason(upstream: ScriptedUpstream) -> None:
    upstream.script += [answer(503, {"detail": "a secret error"})] * 50
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        stream = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        await upstream.wait_for(8)
        shown = await status(gateway, "?failing=1")
        (row,) = shown["watched"]["rows"]
        assert row["reason"] == "UPSTREAM_UNAVAILABLE"
        assert row["failures"] >= 7
        assert shown["problems"][0]["section"] == "JobGatewayUpstreamFailing"
        stream.cancel()


async def test_an_outage_is_named_with_its_cause() -> None:
    clock = SteppedClock()
    async with running(f"http://127.0.0.1:{free_port()}", None, clock) as gateway, stub(gateway) as jobs:
        stream = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        shown: Any = {"upstream": {"outages": []}}
        while not shown["upstream"]["outages"]:
            await clock.advance(2)
            shown = await status(gateway)
        (outage,) = shown["upstream"]["outages"]
        assert outage["requests"] == "reads"
        assert outage["seconds"] >= 2
        assert shown["problems"][0]["severity"] == "critical"
        page = (await fetch(gateway, "/")).text
        assert "The upstream has failed all reads for" in page
        assert f"{outage['reason']} ({outage['cause']})" in page
        stream.cancel()


async def test_no_secret_is_on_any_page(upstream: ScriptedUpstream, tmp_path: Any) -> None:
    store = f"sqlite:///{tmp_path}/a-secret-path.db"
    running_job = {"uid": 42, "status": "a secret message", "message": {"message": "a secret message"}}
    upstream.script += [answer(201, {"uid": 42}), answer(200, running_job), answer(503, {"detail": "a secret error"})]
    async with running(upstream.url, state_url=store) as gateway, stub(gateway) as jobs:
        request = pb.SendJobRequest(workspace_id="a-secret-workspace", entity_id=7, request_id="a-secret-id")
        request.params.update({"a-secret-parameter": "a secret result"})
        await jobs.SendJob(request, metadata=BEARER)
        stream = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        await upstream.wait_for(3)
        for path in ("/", "/statusz", "/?uid=42", "/runbook"):
            text = (await fetch(gateway, path)).text
            assert "42" in text or path == "/runbook"
            for secret in (*SECRETS, TOKEN, "a-secret-path", "a-secret-id"):
                assert secret not in text
        stream.cancel()


async def test_submissions_and_calls_in_flight_are_counted(upstream: ScriptedUpstream) -> None:
    upstream.script.append(hang)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        call = jobs.SendJob(SEND, metadata=BEARER)
        await upstream.wait_for(1)
        shown = await status(gateway)
        assert shown["submissions_in_flight"] == 1
        in_use = {each["name"]: each["in_use"] for each in shown["limits"]}
        assert (in_use["calls"], in_use["submissions"], in_use["watches"]) == (1, 1, 0)
        (client,) = shown["clients"]
        assert (client["calls"], client["submissions"]) == (1, 1)
        call.cancel()


async def test_a_read_in_flight_belongs_to_its_client(upstream: ScriptedUpstream) -> None:
    upstream.script.append(hang)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        stream = jobs.WatchJob(pb.WatchJobRequest(uid=42), metadata=BEARER)
        await upstream.wait_for(1)
        (client,) = (await status(gateway))["clients"]
        assert (client["watches"], client["polls"]) == (1, 1)
        stream.cancel()


async def test_a_certificate_has_its_expiry(upstream: ScriptedUpstream, mounted: MountedSecret) -> None:
    files = {"tls_cert_file": mounted.cert, "tls_key_file": mounted.key, "tls_client_ca_file": mounted.ca}
    async with running(upstream.url, **files) as gateway:
        tls = (await status(gateway))["tls"]
        assert tls["mode"] == "mtls"
        assert datetime.fromisoformat(tls["certificate"]["expires"]) > datetime.now(UTC)
        assert "Valid for" in (await fetch(gateway, "/")).text


async def test_a_drain_is_shown(upstream: ScriptedUpstream) -> None:
    upstream.script.append(hang)
    async with running(upstream.url) as gateway, stub(gateway) as jobs:
        call = jobs.GetJob(pb.GetJobRequest(uid=42), metadata=BEARER)
        await upstream.wait_for(1)
        stopping = asyncio.create_task(gateway.stop(grace=30))
        await asyncio.sleep(0)
        shown = await status(gateway)
        assert (shown["process"]["draining"], shown["problems"][0]["severity"]) == (True, "info")
        call.cancel()
        await stopping


async def test_an_invalid_query_is_a_400(gateway: Gateway) -> None:
    for path in ("/", "/statusz"):
        response = await fetch(gateway, f"{path}?sort=%3Cscript%3E")
        assert (response.status_code, response.headers["content-type"]) == (400, "text/plain; charset=utf-8")
        assert response.text.startswith("sort: '<script>' is no column; use one of uid, ")


async def test_a_filter_is_escaped(gateway: Gateway) -> None:
    text = (await fetch(gateway, "/?client=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")).text
    assert "<script>alert" not in text
    assert "&#34;&gt;&lt;script&gt;alert(1)" in text


async def test_the_page_may_load_nothing(gateway: Gateway) -> None:
    for path in ("/", "/runbook"):
        response = await fetch(gateway, path)
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy
        assert response.headers["cache-control"] == "no-store"
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', response.text)
        # An attribute `style` or `onclick` would be blocked.
        assert not re.findall(r"<[^>]+ (?:style|on\w+)=", response.text)


async def test_a_head_request_has_no_body(gateway: Gateway) -> None:
    for path in ("/", "/statusz", "/runbook"):
        response = await fetch(gateway, path, method="HEAD")
        assert (response.status_code, response.text) == (200, "")
        assert int(response.headers["content-length"]) > 1_000


async def test_the_runbook_has_the_sections_of_the_docs(gateway: Gateway) -> None:
    text = (await fetch(gateway, "/runbook")).text
    assert '<h2 id="jobgatewayupstreamfailing">JobGatewayUpstreamFailing</h2>' in text
    assert "<table>" in text
    # Links to other pages would be broken here.
    assert not re.findall(r'href="[^"#]*\.md', text)
    assert "(request-ids.md)" in text
    anchors = set(re.findall(r'href="#([^"]+)"', text))
    assert anchors
    assert anchors <= set(re.findall(r'id="([^"]+)"', text))


async def test_requests_within_a_second_share_a_snapshot(upstream: ScriptedUpstream) -> None:
    clock = SteppedClock()
    async with running(upstream.url, None, clock) as gateway:
        first = (await status(gateway))["time"]
        clock.now += 0.9
        assert (await status(gateway, "?sort=uid"))["time"] == first
        await clock.advance(0.2)
        assert (await status(gateway))["time"] > first


async def test_a_client_that_does_not_read_is_shown(upstream: ScriptedUpstream) -> None:
    clock = SteppedClock()
    result = b'{"uid":42,"status":"success","result":{"a":"%b"}}' % (b"x" * (8 << 20))
    upstream.script.append(answer(200, raw=result))
    async with running(upstream.url, None, clock) as gateway, stub(gateway) as jobs:
        request = pb.WatchJobRequest(uid=42, content_format=pb.CONTENT_FORMAT_JSON_CHUNKS)
        stream = jobs.WatchJob(request, metadata=BEARER)
        await next_event(stream)
        shown: Any = {"slow_streams": []}
        while not shown["slow_streams"]:
            assert not stream.done(), "all of it fits into the window of the client"
            await clock.advance(2)
            shown = await status(gateway)
        (slow,) = shown["slow_streams"]
        assert (slow["uid"], slow["client"]) == (42, shown["clients"][0]["client"])
        assert slow["seconds"] >= 1
        assert slow["waiting_bytes"] > 100_000
        stream.cancel()
